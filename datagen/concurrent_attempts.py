"""Attempts under way, side by side: as many as keep the engine's window full."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from itertools import islice
from typing import Any

from datagen.asking import Asking, Ways
from datagen.attempts_log import AttemptLine
from datagen.records import Draft, Rejection

_MAX_JUDGED_AT_ONCE = 64


class FinishedAttempt:
    """An attempt that came to its end, before its drafts are compared with others."""

    def __init__(self, number: int, ask: Asking, drafts: list[Draft], rejected: list[Rejection]) -> None:
        self.drafts = drafts
        self.rejected = rejected
        self._number = number
        self._ask = ask

    def line(
        self, accepted: list[dict[str, Any]], rejected: list[Rejection], run: int, at_s: float, busy_s: float
    ) -> AttemptLine:
        return AttemptLine(
            attempt=self._number,
            run=run,
            at_s=round(at_s, 3),
            busy_s=round(busy_s, 3),
            items=self._ask.items,
            engine_errors=self._ask.errors,
            prompt_tokens=self._ask.prompt_tokens,
            completion_tokens=self._ask.completion_tokens,
            accepted=accepted,
            rejected=[{"reason": r.reason, "detail": dict(r.detail)} for r in [*self.rejected, *rejected]],
        )


Make = Callable[[int, Asking], Coroutine[Any, Any, FinishedAttempt]]


class ConcurrentAttempts:
    """`make` makes the attempt of a number from `numbers`."""

    def __init__(self, ways: Ways, numbers: Iterator[int], make: Make) -> None:
        self._ways = ways
        self._numbers = numbers
        self._make = make
        self._under_way: set[asyncio.Task[FinishedAttempt]] = set()
        self._ended: deque[FinishedAttempt] = deque()
        self._failure: BaseException | None = None
        self._news = asyncio.Event()

    async def finished(self, at_most: int) -> list[FinishedAttempt]:
        """Some that came to their end; empty when there are no more. At most `at_most` are under way, or wait to be
        judged, meanwhile.

        What one of them raised is raised after what was complete by then.
        """
        while True:
            if self._failure is None:
                await self._start(at_most)
            if self._ended:
                count = min(len(self._ended), _MAX_JUDGED_AT_ONCE)
                return [self._ended.popleft() for _ in range(count)]
            if self._failure is not None:
                raise self._failure
            if not self._under_way:
                return []
            self._news.clear()
            await self._news.wait()

    async def dismiss(self) -> None:
        """Gives up what is under way."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _start(self, at_most: int) -> None:
        """As many as there is room for, each asking at least once, at one go: their questions share requests."""
        while (count := min(at_most - len(self._under_way) - len(self._ended), self._ways.own.free_items)) > 0:
            numbers = list(islice(self._numbers, count))
            if not numbers:
                return
            for number in numbers:
                task = asyncio.create_task(self._make(number, Asking(self._ways)), name=f"attempt {number}")
                self._under_way.add(task)
                task.add_done_callback(self._end)
            await asyncio.sleep(0)  # lets them ask

    def _end(self, task: "asyncio.Task[FinishedAttempt]") -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            error = task.exception()
            if error is None:
                self._ended.append(task.result())
            self._failure = self._failure or error
        self._news.set()
