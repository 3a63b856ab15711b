"""The pool's work that takes time: engines that start, switches, slots that end. Two that claim the same take turns."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, TypeVar

from gateway.serving.slot import Slot

T = TypeVar("T")


class Shared(Enum):
    """What there is one of."""

    ACTIVE = "which model is active"
    ROOM = "the memory for one more engine"


@dataclass(frozen=True, slots=True)
class Id:
    """A model's id: one thing at a time is done for it."""

    name: str


Claim = Shared | Id | Slot


def ids(names: Iterable[str]) -> frozenset[Claim]:
    return frozenset(Id(name) for name in names)


class Operations:
    """Each runs as a task and changes nothing of what is loaded; its end is an event for the pool, which does.

    `on_end` is called with each task that has ended; whoever takes that event calls `finish`. `on_wish` is called when
    one that runs wants to claim more; whoever takes that event calls `grant`. What is claimed between two operations
    that belong together is kept (`keep`) until it is `let_go`; those of them then claim nothing by themselves.
    """

    def __init__(self, on_end: Callable[[asyncio.Task[Any]], None], on_wish: Callable[[], None]) -> None:
        self._on_end = on_end
        self._on_wish = on_wish
        self._wishes: dict[asyncio.Task[Any], tuple[Claim, asyncio.Future[None]]] = {}
        self._running: dict[asyncio.Task[Any], tuple[frozenset[Claim], Callable[[], None]]] = {}
        self._kept: frozenset[Claim] = frozenset()

    @property
    def claimed(self) -> frozenset[Claim]:
        return self._kept.union(*(claims for claims, _ in self._running.values()))

    def keep(self, claims: frozenset[Claim]) -> None:
        self._kept = claims

    def let_go(self) -> None:
        self._kept = frozenset()

    @property
    def reserved(self) -> frozenset[Claim]:
        """What is claimed, and what those that run are waiting to claim."""
        return self.claimed.union(claim for claim, _ in self._wishes.values())

    async def claim(self, more: Claim) -> None:
        """For an operation itself: returns when this is its own, too. Nothing that starts later gets it before."""
        task = asyncio.current_task()
        assert task in self._running, "only an operation can claim"
        granted = asyncio.get_running_loop().create_future()
        self._wishes[task] = (more, granted)
        self._on_wish()
        try:
            await granted
        finally:
            self._wishes.pop(task, None)

    def grant(self) -> None:
        """Gives operations that run what they want to claim, where it is free."""
        for task, (claim, granted) in self._wishes.items():
            if claim not in self.claimed and task in self._running and not granted.done():
                claims, finish = self._running[task]
                self._running[task] = (claims | {claim}, finish)
                granted.set_result(None)

    def start(
        self,
        name: str,
        work: Coroutine[Any, Any, T],
        claims: Iterable[Claim],
        finish: Callable[[asyncio.Task[T]], None],
    ) -> None:
        """`finish` is called by `self.finish`, when nothing is claimed by this operation any more."""
        task = asyncio.create_task(work, name=name)
        self._running[task] = (frozenset(claims), partial(finish, task))
        task.add_done_callback(self._on_end)

    def finish(self, task: asyncio.Task[Any]) -> None:
        """Does what is to be done about an operation that has ended."""
        ended = self._running.pop(task, None)
        if ended is not None:
            ended[1]()

    async def close(self) -> None:
        """Cancels all, waits for them, and finishes them: a result that came in time is not lost."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for task in list(self._running):
            self.finish(task)
