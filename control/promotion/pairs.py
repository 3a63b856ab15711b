"""The questions of a set in the order in which they count, and what both models' answers are worth. Pure."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from control.promotion.request import Guard
from control.promotion.sequential import Floats, Units
from evals.error_share import failure_of
from evals.metrics import known_metric
from evals.record import SampleRecord

GUARDS: tuple[Guard, ...] = get_args(Guard)
RATIOS: frozenset[Guard] = frozenset({"latency", "tokens"})
_BEYOND = 1e9

Order = list[list[str]]
"""Ids of questions, those of one cluster together: [n_units][questions of the unit]."""


def order_of(questions: Iterable[tuple[str, str | None]], seed: int) -> Order:
    """Of (id, cluster): a random order that depends on the seed and the names alone, so that it is the same again."""
    units: dict[tuple[str, str], list[str]] = {}
    for name, cluster in questions:
        unit = ("question", name) if cluster is None else ("cluster", cluster)
        units.setdefault(unit, []).append(name)
    return [units[unit] for unit in sorted(units, key=lambda unit: _drawn(seed, *unit))]


def _drawn(seed: int, kind: str, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\n{kind}\n{name}".encode()).digest()


@dataclass(frozen=True, slots=True)
class Answer:
    """What counts of a record: its scores (None: it has no verdict), and what guards look at (None: not known)."""

    scores: Mapping[str, float | None]
    marks: Mapping[Guard, float | None]


def answer_of(record: SampleRecord, metrics: Sequence[str], *, timed: bool) -> Answer:
    """`timed`: its latency is of this promotion. Raises ValueError for a score that is not between 0 and 1."""
    scores: dict[str, float | None] = {}
    for name in metrics:
        score = record.scores.get(name)
        missing = score is None or failure_of(record, known_metric(name)) is not None
        scores[name] = None if missing or score is None else score.value
        if score is not None and not 0 <= score.value <= 1:
            raise ValueError(f"{name} of {record.id} is {score.value:g}, not between 0 and 1: it cannot decide here")
    if record.error is not None:
        return Answer(scores, dict.fromkeys(GUARDS, None))
    unparsed = any(not record.scores[name].parsed for name in metrics if name in record.scores)
    marks: dict[Guard, float | None] = {
        "truncated": float(record.truncated),
        "unparsed": float(unparsed),
        "empty": float(not record.prediction.strip()),
        "loss": record.loss,
        "latency": record.latency_s if timed else None,
        "tokens": float(record.completion_tokens),
    }
    return Answer(scores, marks)


@dataclass(slots=True)
class Pairs:
    """The answers to one set's questions so far, by id."""

    order: Order
    baseline: dict[str, Answer] = field(default_factory=dict)
    candidate: dict[str, Answer] = field(default_factory=dict)

    @property
    def complete(self) -> int:
        """How many units from the first have all their answers."""
        for number, unit in enumerate(self.order):
            if not all(name in self.baseline and name in self.candidate for name in unit):
                return number
        return len(self.order)

    @property
    def most(self) -> int:
        return max((len(unit) for unit in self.order), default=1)

    def units(self, metric: str, count: int) -> Units:
        """Of the first `count` units. A question without a verdict of both models counts as not asked."""
        sums, sizes = np.zeros(count), np.zeros(count)
        for number, unit in enumerate(self.order[:count]):
            for name in unit:
                before, after = self.baseline[name].scores[metric], self.candidate[name].scores[metric]
                if before is not None and after is not None:
                    sums[number] += after - before
                    sizes[number] += 1
        return Units(sums, sizes, float(self.most))

    def marks(self, guard: Guard, count: int) -> tuple[Floats, Floats, Floats]:
        """Of each of the first `count` units: the sums of baseline and candidate, and over how many questions."""
        before, after, sizes = np.zeros(count), np.zeros(count), np.zeros(count)
        for number, unit in enumerate(self.order[:count]):
            for name in unit:
                old, new = self.baseline[name].marks[guard], self.candidate[name].marks[guard]
                if old is not None and new is not None:
                    before[number] += old
                    after[number] += new
                    sizes[number] += 1
        return before, after, sizes


def guard_values(sets: Sequence[tuple[Pairs, int]], guard: Guard) -> Floats:
    """After each look [n] the candidate's excess over all sets: a ratio, or a difference of means; NaN where unknown.

    Of each set its first units, as many as given; a set that ends before others stays as it is. A ratio to nothing is
    1 of nothing, and of more beyond every limit.
    """
    looks = max(count for _, count in sets)
    before, after, sizes = np.zeros(looks), np.zeros(looks), np.zeros(looks)
    for pairs, count in sets:
        for total, part in zip((before, after, sizes), pairs.marks(guard, count), strict=True):
            total[:count] += part
    old, new, number = np.cumsum(before), np.cumsum(after), np.cumsum(sizes)
    if guard in RATIOS:
        found = np.divide(new, old, out=np.where(new > 0, _BEYOND, 1.0), where=old > 0)
    else:
        found = np.divide(new - old, number, out=np.zeros(looks), where=number > 0)
    return np.where(number > 0, found, np.nan)


def held_by(sets: Sequence[tuple[Pairs, int]], guards: Mapping[Guard, float]) -> tuple[NDArray[np.bool_], bool]:
    """After each look [n] whether a guard forbids to promote: it is over its limit, or nobody knows. At the last one
    whether one is known to be over it.
    """
    looks = max(count for _, count in sets)
    held, over = np.zeros(looks, dtype=np.bool_), False
    for guard, limit in guards.items():
        values = guard_values(sets, guard)
        held |= ~(values <= limit)
        over = over or bool(values[-1] > limit)
    return held, over
