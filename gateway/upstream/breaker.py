"""When to leave a server alone that fails, and when to try it again. Pure: the clock is given."""

from dataclasses import dataclass

THRESHOLD = 3
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 60.0


@dataclass(slots=True)
class Breaker:
    """Closed until THRESHOLD failures in a row, then open for a pause that doubles; after it one request at a time
    tries. `enter` must be followed by one of `succeed`, `fail` and `abandon`.
    """

    failures: int = 0
    open_until_s: float = 0.0
    _pause_s: float = FIRST_PAUSE_S
    _trying: bool = False

    @property
    def is_open(self) -> bool:
        """Whether it has failed so often that few requests try it, or none."""
        return self.failures >= THRESHOLD

    def admits(self, now_s: float) -> bool:
        if not self.is_open:
            return True
        return now_s >= self.open_until_s and not self._trying

    def retry_in_s(self, now_s: float) -> float:
        """Until a request may try; 0 where it may now."""
        return max(0.0, self.open_until_s - now_s) if self.is_open else 0.0

    def enter(self) -> None:
        self._trying = self.is_open

    def succeed(self) -> None:
        self.failures, self._pause_s, self._trying = 0, FIRST_PAUSE_S, False

    def fail(self, now_s: float) -> None:
        self.failures += 1
        self._trying = False
        if self.is_open:
            self.open_until_s = now_s + self._pause_s
            self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2)

    def abandon(self) -> None:
        """The client went away, so nothing was learnt."""
        self._trying = False
