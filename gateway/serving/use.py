"""How a slot is used: what can be said of its next request, and of how long those inside will stay."""

from dataclasses import dataclass, field

_FORGETS = 0.9  # of the longest answer, with each that is shorter


@dataclass(slots=True)
class Use:
    """Times are of one monotonic clock. `last_s`: when the last request left, or the slot was made.

    `gap_s`: how long it usually stands idle between two requests; None until it did. `answer_s`: how long the longest
    of its recent answers took; 0 until there is one.
    """

    last_s: float = 0.0
    gap_s: float | None = field(default=None, init=False)
    answer_s: float = field(default=0.0, init=False)
    _answered: bool = field(default=False, init=False)

    def enter(self, now_s: float, *, idle: bool) -> None:
        """`idle`: nobody is inside."""
        if idle and self._answered:
            gap_s = now_s - self.last_s
            self.gap_s = gap_s if self.gap_s is None else (self.gap_s + gap_s) / 2

    def leave(self, now_s: float, entered_s: float) -> None:
        self.last_s, self._answered = now_s, True
        self.answer_s = max(now_s - entered_s, _FORGETS * self.answer_s)
