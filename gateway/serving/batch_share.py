"""How many items of batch work may be inside an engine: all it can take, or few while people wait for answers.

An engine's step takes the longer the more sequences are in it, and a request that comes waits for the step that runs.
Priorities decide who is scheduled next, not how long that takes; so batch work makes itself small.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

# After the last interactive request batch work stays small for so long: who just asked will mostly ask again.
LINGER_S = 1.0


class BatchShare:
    """`full` sequences at a time, `beside` while interactive requests are inside or were a moment ago. First come first
    served. For one event loop.
    """

    def __init__(
        self, full: int, beside: int, *, linger_s: float = LINGER_S, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._full = full
        self._beside = min(beside, full)
        self._linger_s = linger_s
        self._clock_s = clock_s
        self._inside = 0
        self._interactive = 0
        self._last_interactive_s = float("-inf")
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self._alarm: asyncio.TimerHandle | None = None

    @contextmanager
    def interactive(self) -> Iterator[None]:
        """Around a request that somebody waits for."""
        self._interactive += 1
        try:
            yield
        finally:
            self._interactive -= 1
            self._last_interactive_s = self._clock_s()

    @asynccontextmanager
    async def place(self, sequences: int = 1) -> AsyncIterator[None]:
        """Around one item of batch work, which has that many answers; waits for a place. More than there are places for
        go in alone.
        """
        if self._waiting or not self._fits(sequences):
            await self._turn(sequences)
        else:
            self._inside += sequences
        try:
            yield
        finally:
            self._inside -= sequences
            self._let_in()

    def portion(self) -> int:
        """How many items are worth preparing at once now: preparing takes the interpreter from others."""
        return max(1, self._limit() // 2)

    async def _turn(self, sequences: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = (turn, sequences)
        self._waiting.append(waiting)
        self._let_in()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # let in and cancelled at once
                self._inside -= sequences
            elif waiting in self._waiting:  # else passed over already, by somebody who left in between
                self._waiting.remove(waiting)
            self._let_in()
            raise

    def _fits(self, sequences: int) -> bool:
        return self._inside == 0 or self._inside + sequences <= self._limit()

    def _limit(self) -> int:
        if self._interactive or self._clock_s() - self._last_interactive_s < self._linger_s:
            return self._beside
        return self._full

    def _let_in(self) -> None:
        while self._waiting and self._fits(self._waiting[0][1]):
            turn, sequences = self._waiting.popleft()
            if not turn.done():
                self._inside += sequences
                turn.set_result(None)
        if self._waiting and self._limit() < self._full and self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(self._linger_s, self._look_again)

    def _look_again(self) -> None:
        self._alarm = None
        self._let_in()
