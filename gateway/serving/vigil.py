"""Whether an engine hangs: a pure decision, by a clock that stands still while nobody listens to the engine."""

from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal["well", "ask", "hangs"]


@dataclass(slots=True)
class Vigil:
    """Call `look` about every `tick_s`. An engine that makes progress is well, however long a question of ours waits in
    its queue; one that makes none is asked after `every_s`, and hangs when nothing came for `deadline_s` after that.

    Of the time between two looks at most two ticks count: what goes beyond is the front end's, whose event loop was
    held up, and answers may lie unread in its socket.
    """

    every_s: float
    deadline_s: float
    tick_s: float
    silent_s: float = field(default=0.0, init=False)
    waited_s: float = field(default=0.0, init=False)
    _looked_s: float | None = field(default=None, init=False)
    _progress: int | None = field(default=None, init=False)

    def look(self, now_s: float, progress: int, *, asked: bool, suspended: bool = False) -> Verdict:
        """`progress` is any number that changes when the engine shows life; `asked`: a question is with it now.

        `suspended`: it is being switched, or ends, and need not answer.
        """
        heard_s = 0.0 if self._looked_s is None else min(now_s - self._looked_s, 2 * self.tick_s)
        self._looked_s = now_s
        if suspended or progress != self._progress:
            self._progress = progress
            self.silent_s = self.waited_s = 0.0
            return "well"
        self.silent_s += heard_s
        if not asked:
            self.waited_s = 0.0
            return "ask" if self.silent_s >= self.every_s else "well"
        self.waited_s += heard_s
        return "hangs" if self.waited_s >= self.deadline_s else "well"
