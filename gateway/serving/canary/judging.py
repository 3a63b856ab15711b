"""Answers of a canary that a judge is to read: which ones, and what it made of them. Pure.

The judge is control's: it fetches answers, and brings its verdicts when it fetches the next. Answers that wait are in
memory alone, and nothing is kept of one that was handed out.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.serving.canary.choice import takes_part
from gateway.serving.canary.guards import Judged
from stepserve.canary import CanaryJudged, CanaryJudging, CanaryVerdicts

_MOST_WAITING = 64
_MOST_AHEAD = 16  # answers of the candidate that wait for one of the active model
_MOST_BYTES = 32 * 1024 * 1024
LONGEST_BYTES = 1024 * 1024
"""Of a request or its answer; longer ones are left out."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A request and its answer as they went over the wire. `path` is one of vLLM's."""

    number: int
    path: str
    body: bytes
    content: bytes
    is_stream: bool

    @property
    def size_bytes(self) -> int:
        return len(self.body) + len(self.content)


@dataclass(frozen=True, slots=True)
class _Out:
    """An answer that the judge has now."""

    number: int
    of_candidate: bool


class Judging:
    """Answers are taken in turns, so that both models have as many: one of the active model's once there is one of the
    candidate's to compare it with. Pairs count in the order in which they were taken, however fast each is judged.
    """

    def __init__(self, asked: CanaryJudging, canary_id: str) -> None:
        self.asked = asked
        self.judged = Judged()
        self._salt = f"{canary_id}\njudge"
        self._waiting: deque[tuple[bool, Taken]] = deque()
        self._waiting_bytes = 0
        self._out: list[_Out] = []
        self._count = 0
        self._ahead = 0  # answers of the candidate without one of the active model's to compare them with
        self._verdicts: dict[bool, deque[bool | None]] = {True: deque(), False: deque()}
        self._unread = 0
        self._trouble: str | None = None

    def draws(self, request_id: str) -> bool:
        """Whether a request that the candidate is asked belongs to the share that is judged."""
        return self._needs_candidate and takes_part(self._salt, request_id, self.asked.share)

    @property
    def _needs_candidate(self) -> bool:
        return self._has_room and self._ahead < _MOST_AHEAD

    @property
    def needs_active(self) -> bool:
        return self._has_room and self._ahead > 0

    @property
    def _has_room(self) -> bool:
        return len(self._waiting) < _MOST_WAITING and self._waiting_bytes < _MOST_BYTES

    def take(self, path: str, body: bytes, content: bytes, *, is_stream: bool, of_candidate: bool) -> None:
        """Does nothing where there is no room, or no need any more."""
        if not (self._needs_candidate if of_candidate else self.needs_active) or len(body) > LONGEST_BYTES:
            return
        self._ahead += 1 if of_candidate else -1
        self._count += 1
        taken = Taken(self._count, path, body, content, is_stream)
        self._waiting.append((of_candidate, taken))
        self._waiting_bytes += taken.size_bytes

    def take_both(self, path: str, body: bytes, active: bytes, candidate: bytes) -> None:
        """Whole answers to the same request."""
        if len(self._waiting) + 2 <= _MOST_WAITING and self._waiting_bytes < _MOST_BYTES:
            self.take(path, body, candidate, is_stream=False, of_candidate=True)
            self.take(path, body, active, is_stream=False, of_candidate=False)

    def handed(self, said: CanaryVerdicts) -> list[Taken]:
        """Notes what the judge made of what it was handed last; what it is to read next."""
        self._trouble = said.trouble
        found = {verdict.number: verdict.good for verdict in said.verdicts}
        for one in self._out:
            good = found.get(one.number)
            self._unread += good is None
            self._verdicts[one.of_candidate].append(good)
        for new, old in self._pairs():
            if new is not None and old is not None:
                self.judged.add(new, old)
        next_ones = [self._waiting.popleft() for _ in range(min(said.wanted, len(self._waiting)))]
        self._waiting_bytes -= sum(taken.size_bytes for _, taken in next_ones)
        self._out = [_Out(taken.number, of_candidate) for of_candidate, taken in next_ones]
        return [taken for _, taken in next_ones]

    def _pairs(self) -> Iterator[tuple[bool | None, bool | None]]:
        new, old = self._verdicts[True], self._verdicts[False]
        while new and old:
            yield new.popleft(), old.popleft()

    @property
    def has_answers(self) -> bool:
        return bool(self._waiting)

    def forget(self) -> None:
        """The answers that wait."""
        self._waiting.clear()
        self._waiting_bytes = 0

    @property
    def too_few(self) -> str | None:
        """Why it has shown nothing, as a sentence; None: it has had its answers."""
        pairs, least = self.judged.pairs, self.asked.min_answers
        if pairs >= least:
            return None
        why = f" ({self._trouble})" if self._trouble else ""
        return f"{pairs} pairs of answers were judged; at least {least} (judge.min_answers) had to be{why}"

    @property
    def told(self) -> CanaryJudged:
        judged = self.judged
        return CanaryJudged(
            pairs=judged.pairs,
            candidate_good=judged.candidate_good / judged.pairs if judged.pairs else None,
            active_good=judged.active_good / judged.pairs if judged.pairs else None,
            unread=self._unread,
            trouble=self._trouble,
        )
