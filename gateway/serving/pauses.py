"""The active model is paused while a trainer says so: nobody is answered, and only the trainer changes its weights."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from gateway.errors import DrainFailed, EngineReloadFailed, GatewayError, ModelPaused, PushRefused, Unserved
from gateway.serving.gate import Gate
from gateway.serving.ledger import Ledger
from gateway.serving.operations import Claim, Shared, ids
from gateway.serving.slot import Slot
from stepserve.contract import InFlightPolicy

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PauseRequest:
    """`in_flight`: what becomes of the requests inside; `finish` waits for them, for `timeout_s`. A pause of `slot`
    that nobody ends is over after `limit_s`.
    """

    slot: Slot
    in_flight: InFlightPolicy
    limit_s: float
    timeout_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Pause:
    """One that somebody asked for, and waits for until it has begun."""

    request: PauseRequest
    begun: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class Resume:
    """`ended`: requests are answered again."""

    ended: asyncio.Future[None]


@dataclass(slots=True)
class Pauses:
    """Only the pool's loop calls this. A pause claims the active model from its beginning to its end, also while
    nothing is done for it. It ends by a Resume, after its limit, or with the engine.
    """

    gate: Gate
    ledger: Ledger
    announce: Callable[[], None]
    _pause: Pause | None = field(default=None, init=False)
    _claims: frozenset[Claim] | None = field(default=None, init=False)
    _works: bool = field(default=False, init=False)
    _until_s: float = field(default=0.0, init=False)
    _resumes: list[Resume] = field(default_factory=list, init=False)
    _joined: list[Pause] = field(default_factory=list, init=False)

    @property
    def slot(self) -> Slot | None:
        """What is paused now, and nothing more is being done for that."""
        begun = self._pause is not None and self._pause.begun.done() and not self._works
        return self._pause.request.slot if self._pause is not None and begun else None

    @property
    def is_wanted(self) -> bool:
        """From when it is asked for until requests are answered again."""
        return self._pause is not None

    @property
    def obstacle(self) -> ModelPaused | None:
        """Why nothing else may change the active model; None where nothing is paused, or to be."""
        if self._pause is None:
            return None
        left_s = max(0.0, self._until_s - _now_s()) if self._claims is not None else self._pause.request.limit_s
        left_s = 0.0 if self._resumes else left_s
        return ModelPaused(self._pause.request.slot.model.id, left_s)

    def ask(self, pause: Pause) -> None:
        """A pause that runs already goes on for the new one's limit, unless it is about to end; one that begins is
        waited for. `abort` then ends the requests inside.
        """
        now, slot = self._pause, pause.request.slot
        if now is None:
            self._pause = pause
        elif now.request.slot is not slot or self._resumes:
            _settle(pause.begun, self.obstacle)
        elif self.slot is None:
            self._joined.append(pause)
            if pause.request.in_flight == "abort" and self._claims is not None:  # who asks so waits for nobody inside
                self.ledger.operations.start(f"abort {slot.model.id}", _aborted(slot), (), _note_failure)
        else:
            self._until_s = _now_s() + pause.request.limit_s
            if pause.request.in_flight == "abort":
                self._start("abort", _aborted(slot), partial(self._aborted, pause))
            else:
                _settle(pause.begun, None)

    def resume(self, resume: Resume) -> None:
        if self._pause is None:
            _settle(resume.ended, None)
        else:
            self._resumes.append(resume)

    def close(self) -> None:
        """Nobody waits any more."""
        pauses = [*self._joined, self._pause] if self._pause is not None else []
        for future in [*(each.ended for each in self._resumes), *(each.begun for each in pauses)]:
            future.cancel()

    def reap_dead(self) -> None:
        """A pause ends with its engine, which is started again."""
        if self._pause is not None and self._claims is not None and not self._works and self._pause.request.slot.dead:
            log.error("the engine of %s died while it was paused", self._pause.request.slot.model.id)
            self._let_go()

    def advance(self, reserved: set[Claim], *, is_pushed_to: bool) -> None:
        """Begins and ends it. `is_pushed_to`: weights are being put into what is paused, so it goes on until then."""
        pause = self._pause
        if pause is None or self._works:
            return
        if self._claims is None:
            self._begin(pause, reserved)
        elif not is_pushed_to and (self._resumes or _now_s() >= self._until_s):
            slot = pause.request.slot
            if not self._resumes:
                log.error(
                    "%s was paused for %g s, and goes on: nobody resumed it", slot.model.id, pause.request.limit_s
                )
            self._start("resume", _thawed(slot), self._resumed)

    def _begin(self, pause: Pause, reserved: set[Claim]) -> None:
        request = pause.request
        if (obstacle := self._obstacle(request.slot)) is not None:
            self._pause = None
            _settle(pause.begun, obstacle)
            self._answer_joined(obstacle)
            self._answer_resumes()
            return
        claims: frozenset[Claim] = ids({request.slot.model.id}) | {Shared.ACTIVE, request.slot}
        waits = bool(claims & reserved)
        reserved |= claims
        if waits:
            return
        self._claims = claims
        self.ledger.operations.keep(claims)
        self._until_s = _now_s() + request.limit_s
        self.gate.hold()
        self._start("pause", _stopped(request), partial(self._begun, pause))

    def _obstacle(self, slot: Slot) -> GatewayError | None:
        if slot.dead:
            return Unserved(f"The engine of `{slot.model.id}` died.", 5.0)
        if self.ledger.loaded.active is not slot:
            return PushRefused(f"`{slot.model.id}` is not the active model any more.")
        return None

    def _start(self, name: str, work: Coroutine[Any, Any, None], finish: Callable[[asyncio.Task[None]], None]) -> None:
        assert self._pause is not None
        self._works = True
        self.ledger.operations.start(f"{name} {self._pause.request.slot.model.id}", work, (), finish)

    def _begun(self, pause: Pause, task: asyncio.Task[None]) -> None:
        self._works = False
        if (error := _failure(task)) is not None:
            if not isinstance(error, DrainFailed):  # nobody knows whether it answers anybody
                pause.request.slot.condemn()
            self._answer_joined(error)
            self._let_go()
            _settle(pause.begun, error)
            return
        pause.request.slot.phase = "ready"
        self._until_s = _now_s() + pause.request.limit_s
        log.info("%s is paused (%s)", pause.request.slot.model.id, pause.request.in_flight)
        _settle(pause.begun, None)
        self._answer_joined(None)

    def _aborted(self, pause: Pause, task: asyncio.Task[None]) -> None:
        self._works = False
        _settle(pause.begun, _failure(task))
        self._answer_joined(None)

    def _resumed(self, task: asyncio.Task[None]) -> None:
        self._works = False
        if (error := _failure(task)) is not None:
            log.error("what was paused does not go on: %s", error)
            assert self._pause is not None
            self._pause.request.slot.condemn()
        self._let_go()

    def _let_go(self) -> None:
        """The active model is everybody's again; what of it is dead is started again by whoever sees that."""
        assert self._pause is not None
        slot = self._pause.request.slot
        self._pause, self._claims = None, None
        self.ledger.operations.let_go()
        if not slot.dead and self.ledger.loaded.active is slot:
            serving = self.ledger.loaded.serving
            self.ledger.serve(serving)
            if serving is not None:
                self.gate.open(serving)
        self.announce()
        self._answer_resumes()
        self._answer_joined(None)  # who asked while it ended, for a new one

    def _answer_joined(self, error: GatewayError | None) -> None:
        """The pause that they waited for has begun, or cannot."""
        joined, self._joined = self._joined, []
        for pause in joined:
            if error is not None:
                _settle(pause.begun, error)
            else:
                self.ask(pause)

    def _answer_resumes(self) -> None:
        resumes, self._resumes = self._resumes, []
        for resume in resumes:
            _settle(resume.ended, None)


async def _stopped(request: PauseRequest) -> None:
    """Raises DrainFailed, EngineReloadFailed."""
    slot = request.slot
    if request.in_flight == "keep":
        await slot.freeze()
    elif not await slot.drained(request.in_flight, request.timeout_s):
        raise DrainFailed(slot.in_flight, request.timeout_s)


async def _aborted(slot: Slot) -> None:
    slot.end_batches()
    await slot.abort_requests()


async def _thawed(slot: Slot) -> None:
    """Raises EngineReloadFailed."""
    await slot.thaw()


def _note_failure(task: asyncio.Task[None]) -> None:
    if (error := _failure(task)) is not None:
        log.error("%s failed: %s", task.get_name(), error)


def _failure(task: asyncio.Task[None]) -> GatewayError | None:
    if task.cancelled():
        return Unserved("The server stops.", 5.0)
    crash = task.exception()
    if crash is None or isinstance(crash, GatewayError):
        return crash
    log.error("%s crashed", task.get_name(), exc_info=crash)  # the supervisor: a defect costs this pause, and no more
    return EngineReloadFailed(f"the pause crashed: {type(crash).__name__}: {crash}")


def _settle(future: asyncio.Future[None], error: GatewayError | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(None)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
