"""How late an event loop is: a process that serves everybody from one loop must not be held up by one request."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

_EVERY_S = 0.25
_WINDOW_S = 60.0  # longer than between two readings of the metrics, so that none is missed


class LoopLag:
    """`run` in the loop that is watched."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._seen: deque[tuple[float, float]] = deque()  # when, and how late; later ones are less late

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            due_s = self._clock_s() + _EVERY_S
            await asyncio.sleep(_EVERY_S)
            self.note(self._clock_s() - due_s)

    def note(self, lag_s: float) -> None:
        lag_s = max(0.0, lag_s)
        while self._seen and self._seen[-1][1] <= lag_s:
            self._seen.pop()
        self._seen.append((self._clock_s(), lag_s))

    def worst_s(self) -> float:
        """The latest that the loop was in the last minute."""
        oldest_s = self._clock_s() - _WINDOW_S
        while self._seen and self._seen[0][0] < oldest_s:
            self._seen.popleft()
        return self._seen[0][1] if self._seen else 0.0
