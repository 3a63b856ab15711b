"""A virtual clock: events in order of time."""

import heapq
import itertools
from collections.abc import Callable


class Clock:
    """Events of the same moment happen in the order in which they were asked for."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def __call__(self) -> float:
        return self.now_s

    def after(self, delay_s: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now_s + delay_s, next(self._numbers), happen))

    def run(self, until_s: float = float("inf")) -> None:
        """Until that time, or until nothing more is to happen."""
        while self._events and self._events[0][0] <= until_s:
            self.now_s, _, happen = heapq.heappop(self._events)
            happen()
        if until_s != float("inf"):
            self.now_s = until_s
