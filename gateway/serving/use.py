"""How a model is used: what can be said of its next request, its next load, and how long those inside will stay."""

from dataclasses import dataclass, field

_FORGETS = 0.98  # of the longest answer, with each that is shorter


@dataclass(slots=True)
class Use:
    """Times are of one monotonic clock. `last_s`: when the last request left, or the model was loaded.

    `gap_s`: how long it usually stands idle between two requests; None until it did. `answer_s`: how long the longest
    of its recent answers took; 0 until there is one. `load_s`: how long its last load took.
    """

    last_s: float = 0.0
    load_s: float = 0.0
    gap_s: float | None = field(default=None, init=False)
    answer_s: float = field(default=0.0, init=False)
    _idle: bool = field(default=False, init=False)

    def load(self, now_s: float, took_s: float) -> None:
        self.last_s, self.load_s, self._idle = now_s, took_s, False

    @property
    def is_unused(self) -> bool:
        """Whether nothing was answered since the load, where nobody is inside."""
        return not self._idle

    def come(self, now_s: float) -> None:
        """A request, also one that waits for a load of the model."""
        if self._idle:
            gap_s = max(0.0, now_s - self.last_s)
            self.gap_s = gap_s if self.gap_s is None else (self.gap_s + gap_s) / 2
        self._idle = False

    def leave(self, now_s: float, entered_s: float, *, last: bool) -> None:
        """`last`: nobody is inside any more."""
        self.last_s, self._idle = now_s, last
        self.answer_s = max(now_s - entered_s, _FORGETS * self.answer_s)
