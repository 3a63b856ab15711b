"""When a suite of metrics has shown that a candidate may take the place of its baseline. Pure.

| test | promoted | refused |
|---|---|---|
| `non_inferior` | every metric is shown to be above -margin | a metric is shown to be below -margin |
| `superior` | that, and a metric is shown to be above 0 | that, or every metric is shown to be below 0 |

The mean of a metric is that of the candidate's score less the baseline's. What every metric has to show needs no
correction: the chance that one which is worse by its margin slips through is alpha (an intersection-union test, Berger
1982). What one of several metrics has to show is corrected by Holm's method (1979).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from control.promotion.sequential import Floats, Units, p_above, p_below
from evals.paired_tests import mcnemar_better, paired_t
from stepserve.request_model import RequestModel

Decision = Literal["promoted", "refused", "undecided"]
Test = Literal["non_inferior", "superior"]


class Rule(RequestModel):
    """`margin`: how much worse a metric may be and still count as no worse, in units of its score (0 to 1)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    test: Test = "superior"
    margin: Annotated[float, Field(ge=0, le=0.5)] = 0.02
    alpha: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    correction: Literal["holm"] = "holm"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Of m metrics, after each of n units [m, n] or at the end alone [m, 1]: p against the opposite of each claim."""

    above_margin: Floats
    above: Floats
    below_margin: Floats
    below: Floats


@dataclass(frozen=True, slots=True)
class Outcome:
    """`looks`: after how many looks it is so. `deciding`: the metrics, by their numbers, that were shown to be better
    (not worse, where no more was asked), or worse. None decides where it is undecided, or a guard forbids to promote.
    """

    decision: Decision
    looks: int
    deciding: tuple[int, ...] = ()


def at_any_time(metrics: Sequence[Units], margins: Sequence[float]) -> Evidence:
    """After each unit; a metric with fewer units than another keeps what it has shown."""
    length = max(units.sums.size for units in metrics)
    return _evidence(metrics, margins, lambda test, units, than: _kept(test(units, than), length))


def at_the_end(metrics: Sequence[Units], margins: Sequence[float]) -> Evidence:
    """Once, after a number of units that was fixed before: McNemar's exact test of right and wrong against a mean of 0,
    else Student's t, by clusters.
    """

    def each(test: "_Test", units: Units, than: float) -> Floats:
        facing, limit = (units, than) if test is p_above else (units.mirrored, -than)
        return np.array([_fixed_p(facing, limit)])

    return _evidence(metrics, margins, each)


_Test = Callable[[Units, float], Floats]


def _evidence(
    metrics: Sequence[Units], margins: Sequence[float], each: Callable[[_Test, Units, float], Floats]
) -> Evidence:
    def stacked(test: _Test, sign: float) -> Floats:
        found = [each(test, units, sign * margin) for units, margin in zip(metrics, margins, strict=True)]
        return np.stack(found)

    return Evidence(stacked(p_above, -1.0), stacked(p_above, 0.0), stacked(p_below, -1.0), stacked(p_below, 0.0))


def _kept(p: Floats, length: int) -> Floats:
    last = p[-1] if p.size else 1.0
    return np.concatenate([p, np.full(length - p.size, last)])


def _fixed_p(units: Units, than: float) -> float:
    """Against "the mean is at most `than`"."""
    counted = units.sizes > 0
    sums = units.sums[counted]
    if not sums.size:
        return 1.0
    if than == 0 and units.most == 1 and set(np.unique(sums)) <= {-1.0, 0.0, 1.0}:
        return mcnemar_better(int(np.count_nonzero(sums > 0)), int(np.count_nonzero(sums < 0)))
    mean, error = mean_of(units)
    if not error:  # no two differ, which Student's t takes for certainty
        return float(p_above(units, than)[-1])
    return paired_t(mean, error, sums.size - 1, than)[0]


def mean_of(units: Units) -> tuple[float, float | None]:
    """The mean over questions, and its standard error by clusters (evals.clusters); None with fewer than two units."""
    counted = units.sizes > 0
    sums, sizes = units.sums[counted], units.sizes[counted]
    count, total = sums.size, float(np.sum(sizes))
    if not count:
        return 0.0, None
    mean = float(np.sum(sums)) / total
    if count < 2:
        return mean, None
    return mean, math.sqrt(float(np.sum((sums - mean * sizes) ** 2)) * count / (count - 1)) / total


def holm(p: Floats) -> Floats:
    """Adjusted for the choice among m metrics, each column [m, n] on its own (Holm 1979)."""
    order = np.argsort(p, axis=0, kind="stable")
    count = p.shape[0]
    weights = np.arange(count, 0, -1, dtype=np.float64).reshape(-1, *([1] * (p.ndim - 1)))
    stepped: Floats = np.minimum(1.0, np.maximum.accumulate(np.take_along_axis(p, order, axis=0) * weights, axis=0))
    adjusted: Floats = np.empty_like(stepped)
    np.put_along_axis(adjusted, order, stepped, axis=0)
    return adjusted


def decide(evidence: Evidence, rule: Rule, held: NDArray[np.bool_] | None = None, *, refuses: bool = True) -> Outcome:
    """The first look [n] at which something is shown. `held` [n]: a guard forbids to promote there.

    Where a guard forbids it at the last look too, what would have been promoted is refused, by no metric; not without
    `refuses`: there are looks to come, or the guard's value is not known.
    """
    alpha = rule.alpha
    better, worse = holm(evidence.above), holm(evidence.below_margin)
    passes = np.all(evidence.above_margin <= alpha, axis=0)
    refused = np.any(worse <= alpha, axis=0)
    if rule.test == "superior":
        passes &= np.any(better <= alpha, axis=0)
        refused |= np.all(evidence.below <= alpha, axis=0)
    free = np.ones_like(passes) if held is None else ~held
    looks = passes.size
    over = np.flatnonzero(refused | (passes & free))
    if over.size:
        look = int(over[0])
        if refused[look]:
            low = worse[:, look] <= alpha
            return Outcome("refused", look + 1, _numbers(low if low.any() else evidence.below[:, look] <= alpha))
        shown = better[:, look] <= alpha if rule.test == "superior" else evidence.above_margin[:, look] <= alpha
        return Outcome("promoted", look + 1, _numbers(shown))
    if looks and passes[-1] and refuses:
        return Outcome("refused", looks)
    return Outcome("undecided", looks)


def _numbers(which: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(number) for number in np.flatnonzero(which))
