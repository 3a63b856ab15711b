"""What samples of a run that is done are chosen by, in memory: some 60 bytes a sample instead of all its text.

Reading 100,000 samples whole takes seconds; with the index a page of them is read where it lies in the file.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from evals.error_share import unscored
from evals.metrics import Metric
from evals.record import MetricScore
from stepserve.jobs.errors import Invalid
from stepserve.jobs.eval_ports import SampleQuery, Verdict

WORST_FIRST: tuple[Verdict, ...] = ("failed", "wrong", "right")


class _Sketch(BaseModel):
    """Of a SampleRecord what the index holds; the rest of the line is passed over."""

    model_config = ConfigDict(frozen=True)

    id: str
    index: int
    correct: bool
    scores: dict[str, MetricScore] = {}
    finish_reason: str | None
    completion_tokens: int
    error: str | None

    def verdict(self, main: Metric) -> Verdict:
        score = self.scores.get(main.name)
        if self.error is not None or (score is not None and unscored(score, main) is not None):
            return "failed"
        return "right" if self.correct else "wrong"


@dataclass(slots=True)
class SampleIndex:
    """[n] of each, in the order of the file; `places` by id. `order` has the worst samples first."""

    path: Path
    offsets: "array[int]" = field(default_factory=lambda: array("Q"))
    lengths: "array[int]" = field(default_factory=lambda: array("L"))
    verdicts: "array[int]" = field(default_factory=lambda: array("B"))
    tokens: "array[int]" = field(default_factory=lambda: array("L"))
    finishes: "array[int]" = field(default_factory=lambda: array("B"))
    scores: dict[str, "array[float]"] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    finish_reasons: list[str | None] = field(default_factory=list)
    order: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, path: Path, main: Metric) -> "SampleIndex":
        """Reads all of it: some seconds for 100,000. Each id counts once; lines that are not whole are passed over.

        Raises FileNotFoundError.
        """
        made = cls(path)
        indices = array("Q")
        with path.open("rb") as file:
            offset = 0
            for line in file:
                begin, offset = offset, offset + len(line)
                if not line.endswith(b"\n"):
                    continue
                with suppress(ValueError):
                    sketch = _Sketch.model_validate_json(line)
                    if sketch.id not in made.places:
                        made._add(sketch, begin, len(line), main)
                        indices.append(sketch.index)
        made.order = sorted(range(len(made.offsets)), key=lambda place: (made.verdicts[place], indices[place]))
        return made

    def verdict_of(self, sample_id: str) -> Verdict | None:
        """None: it was not asked."""
        place = self.places.get(sample_id)
        return None if place is None else WORST_FIRST[self.verdicts[place]]

    def fitting(self, wanted: SampleQuery, changed_from: "SampleIndex | None" = None) -> list[int]:
        """Places of samples that fit all but the text, the worst first. `changed_from`: only those whose verdict was
        another one there. Raises Invalid for a metric that was not measured.
        """
        tests = self._tests(wanted, changed_from)
        return [place for place in self.order if all(test(place) for test in tests)]

    def lines(self, places: Iterable[int]) -> Iterator[bytes]:
        """Blocks."""
        with self.path.open("rb") as file:
            for place in places:
                file.seek(self.offsets[place])
                yield file.read(self.lengths[place])

    def _tests(self, wanted: SampleQuery, other: "SampleIndex | None") -> list[Callable[[int], bool]]:
        tests: list[Callable[[int], bool]] = []
        if wanted.ids:
            allowed = {self.places[name] for name in wanted.ids if name in self.places}
            tests.append(lambda place: place in allowed)
        if wanted.verdict is not None:
            verdict = WORST_FIRST.index(wanted.verdict)
            tests.append(lambda place: self.verdicts[place] == verdict)
        if (reason := wanted.finish_reason) is not None:
            finish = self.finish_reasons.index(reason) if reason in self.finish_reasons else -1
            tests.append(lambda place: self.finishes[place] == finish)
        if (least := wanted.min_tokens) is not None:
            tests.append(lambda place: self.tokens[place] >= least)
        if (most := wanted.max_tokens) is not None:
            tests.append(lambda place: self.tokens[place] <= most)
        if wanted.metric is not None:
            tests += self._score_tests(wanted.metric, wanted.min_score, wanted.max_score)
        if other is not None:
            then = {self.places[name]: other.verdicts[at] for name, at in other.places.items() if name in self.places}
            tests.append(lambda place: place in then and then[place] != self.verdicts[place])
        return tests

    def _score_tests(self, metric: str, low: float | None, high: float | None) -> list[Callable[[int], bool]]:
        values = self.scores.get(metric)
        if values is None:
            known = ", ".join(sorted(self.scores)) or "none"
            raise Invalid(f"metric: {metric!r} was not measured in this run; there is {known}")
        tests: list[Callable[[int], bool]] = []
        if low is not None:
            tests.append(lambda place: values[place] >= low)  # NaN, where it was not worked out, is neither
        if high is not None:
            tests.append(lambda place: values[place] <= high)
        return tests

    def _add(self, sketch: _Sketch, offset: int, length: int, main: Metric) -> None:
        place = len(self.offsets)
        self.places[sketch.id] = place
        self.offsets.append(offset)
        self.lengths.append(length)
        self.verdicts.append(WORST_FIRST.index(sketch.verdict(main)))
        self.tokens.append(sketch.completion_tokens)
        if sketch.finish_reason not in self.finish_reasons:
            self.finish_reasons.append(sketch.finish_reason)
        self.finishes.append(self.finish_reasons.index(sketch.finish_reason))
        for name, score in sketch.scores.items():
            values = self.scores.setdefault(name, array("d"))
            values.extend([float("nan")] * (place - len(values)))
            values.append(float("nan") if score.error is not None else score.value)
        for values in self.scores.values():
            values.extend([float("nan")] * (place + 1 - len(values)))


class SampleIndices:
    """The indices of the runs that were looked at last. Safe to share between threads."""

    def __init__(self, kept: int = 8) -> None:
        self._kept = kept
        self._by_file: dict[tuple[Path, int, int, str], SampleIndex] = {}

    def of(self, path: Path, main: Metric) -> SampleIndex:
        """Blocks. Raises FileNotFoundError."""
        facts = path.stat()
        key = (path, facts.st_mtime_ns, facts.st_size, main.name)
        found = self._by_file.pop(key, None) or SampleIndex.of(path, main)
        self._by_file[key] = found
        for old in list(self._by_file)[: -self._kept]:
            self._by_file.pop(old, None)
        return found
