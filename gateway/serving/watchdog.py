"""Finds engines that hang: a core that is stopped or stuck looks alive to vLLM, and its clients wait for ever."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from gateway.errors import GatewayError
from gateway.serving.slot import Engine, Slot
from gateway.serving.vigil import Vigil

log = logging.getLogger(__name__)

_EVERY_S = 10.0
_DEADLINE_S = 30.0
_TICK_S = 1.0
_LOOKS = 8  # at least so many before an engine is taken for dead, each with the event loop free in between
_LAG_TOLD_S = 5.0


async def grammars_answer(engine: Engine, patience_s: float) -> None:
    """Whether requests that are held to a grammar are answered where others are; at most three times `patience_s`.

    Raises TimeoutError when they are not. An engine that gives no plain token either is full, or hangs, which is
    another question's matter.
    """
    try:
        async with asyncio.timeout(patience_s):
            await engine.alive()
    except TimeoutError:
        return
    try:
        await engine.structured_alive(patience_s)
    except TimeoutError:
        try:
            async with asyncio.timeout(patience_s):
                await engine.alive()
        except TimeoutError:
            return
        raise


@dataclass(slots=True)
class Watchdog:
    """Listens to engines, and asks those for one token that say nothing; a slot that stays silent is dead.

    Steps of the engine count as life (see gateway.serving.vigil), so a full engine is not asked and a busy event loop
    of this process is not taken for a hung engine.

    `second`: another question, asked of each slot every `every_s` with one deadline, whatever else it answers. It
    returns when that part of the engine works; it may raise GatewayError when the engine is dead, and TimeoutError,
    which is no answer.
    """

    deadline_s: float = _DEADLINE_S
    every_s: float = _EVERY_S
    second: Callable[[Slot], Awaitable[None]] | None = None
    clock_s: Callable[[], float] = time.monotonic
    _watches: dict[Slot, "_Watch"] = field(default_factory=dict, init=False)
    _ends: set[asyncio.Task[int]] = field(default_factory=set, init=False)
    _ticking: asyncio.Task[None] | None = field(default=None, init=False)

    @classmethod
    def within(cls, hang_timeout_s: float) -> "Watchdog":
        """One that finds a silent engine within at most twice that time, and one that answers all but grammars."""
        return cls(
            hang_timeout_s,
            min(_EVERY_S, hang_timeout_s),
            lambda slot: grammars_answer(slot.engine, hang_timeout_s / 4),
        )

    @property
    def tick_s(self) -> float:
        return min(_TICK_S, self.every_s, self.deadline_s / _LOOKS)

    def look_at(self, *slots: Slot) -> None:
        """Watches these slots from now on, and no other."""
        for slot in self._watches.keys() - set(slots):
            self._watches.pop(slot).stop()
        for slot in slots:
            if slot not in self._watches:
                self._watches[slot] = _Watch(slot, self._vigil(), self._vigil(), self.second)
        if slots and (self._ticking is None or self._ticking.done()):
            self._ticking = asyncio.create_task(self._tick(), name="watchdog")

    def stop(self) -> None:
        self.look_at()
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None

    def _vigil(self) -> Vigil:
        return Vigil(self.every_s, self.deadline_s, self.tick_s)

    async def _tick(self) -> None:
        now_s = self.clock_s()
        while True:
            due_s = now_s + self.tick_s
            await asyncio.sleep(self.tick_s)
            now_s = self.clock_s()
            lag_s = now_s - due_s
            if lag_s >= _LAG_TOLD_S:
                log.warning("the event loop was held up for %.0f s; engines were not listened to meanwhile", lag_s)
            for watch in self._watches.values():
                fault = watch.look(now_s)
                if fault is None:
                    continue
                log.error("the engine of %s %s; it is taken for dead", watch.slot.model.id, fault)
                watch.slot.condemn()
                end = asyncio.create_task(watch.slot.abort_requests(), name=f"abort {watch.slot.model.id}")
                self._ends.add(end)  # those inside would wait for ever, and a switch that drains the slot with them
                end.add_done_callback(self._ends.discard)


class _Watch:
    """One slot's vigils, and the questions that are with its engine now."""

    def __init__(self, slot: Slot, first: Vigil, second: Vigil, more: Callable[[Slot], Awaitable[None]] | None) -> None:
        self.slot = slot
        self.first = first
        self._second = second
        self._more = more
        self._questions: dict[str, asyncio.Task[None]] = {}
        self._answers = {"token": 0, "second": 0}

    def look(self, now_s: float) -> str | None:
        """What is wrong with the engine, asking it where that is due."""
        slot = self.slot
        if slot.dead:
            self.stop()
            return None
        suspended = slot.suspended or slot.phase == "stopped"
        if suspended:
            self.stop()
        progress = slot.engine.progress + self._answers["token"]
        verdict = self.first.look(now_s, progress, asked="token" in self._questions, suspended=suspended)
        if verdict == "ask":
            self._ask("token", slot.engine.alive)
        if verdict == "hangs":
            return f"made no step in {self.first.silent_s:.0f} s and gave no token in {self.first.waited_s:.0f} s"
        if self._more is None:
            return None
        verdict = self._second.look(
            now_s, self._answers["second"], asked="second" in self._questions, suspended=suspended
        )
        if verdict == "ask":
            self._ask("second", partial(self._more, slot))
        return f"did not answer in {self._second.waited_s:.0f} s" if verdict == "hangs" else None

    def stop(self) -> None:
        for question in self._questions.values():
            question.cancel()
        self._questions.clear()

    def _ask(self, name: str, question: Callable[[], Awaitable[None]]) -> None:
        asked = self._answered(name, question)
        self._questions[name] = asyncio.create_task(asked, name=f"{name} {self.slot.model.id}")

    async def _answered(self, name: str, question: Callable[[], Awaitable[None]]) -> None:
        """Asks until there is an answer; that there is none is for the vigil to say, by a clock of its own."""
        while True:
            try:
                await question()
            except TimeoutError:
                await asyncio.sleep(0)
            except GatewayError:
                return  # it died, which the pool sees by itself
            else:
                break
        self._answers[name] += 1
        self._questions.pop(name, None)
