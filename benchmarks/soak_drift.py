"""What changes in hours of the same traffic: memory that grows, things that are left open. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["flat", "drifts", "too short"]
WARM_UP_S = 600.0
MEMORY_PERCENT_PER_HOUR = 1.0
SLOWER = 1.1
_LEAST_S = 1200.0  # of which memory says anything: what a switch takes for a moment is a tenth of a process


@dataclass(frozen=True, slots=True)
class Point:
    """`at_s` since the traffic began."""

    at_s: float
    value: float


@dataclass(frozen=True, slots=True)
class Drift:
    """`change`: percent an hour of memory; of what is counted, how many more there are at the end than at first; of a
    latency, the ratio of the end to the beginning.
    """

    name: str
    first: float
    last: float
    change: float
    verdict: Verdict


def memory(name: str, points: Sequence[Point]) -> Drift | None:
    """By the slope that the median of all pairs has (Theil and Sen), so that a peak says nothing. None: too few."""
    late = _after_warm_up(points)
    if len(late) < 3:
        return None
    slopes = sorted(
        (b.value - a.value) / (b.at_s - a.at_s) for at, a in enumerate(late) for b in late[at + 1 :] if b.at_s > a.at_s
    )
    level = _median([point.value for point in late])
    percent = 100 * 3600 * _median(slopes) / level if level else 0.0
    span_s = late[-1].at_s - late[0].at_s
    verdict: Verdict = "drifts" if percent > MEMORY_PERCENT_PER_HOUR else "flat"
    return Drift(name, late[0].value, late[-1].value, percent, verdict if span_s >= _LEAST_S else "too short")


def counted(name: str, points: Sequence[Point]) -> Drift | None:
    """By the fewest there were in the first and in the last third: what is open for a moment comes and goes, what is
    left open raises the floor. None: too few.
    """
    late = _after_warm_up(points)
    third = len(late) // 3
    if not third:
        return None
    first, last = (min(point.value for point in some) for some in (late[:third], late[-third:]))
    return Drift(name, first, last, last - first, "drifts" if last > first else "flat")


def latency(name: str, points: Sequence[Point], window_s: float = WARM_UP_S) -> Drift | None:
    """The 99th percentile of the last window against that of the first. None: too few."""
    if not points:
        return None
    window_s = min(window_s, points[-1].at_s / 3)
    end_s = points[-1].at_s
    first = sorted(point.value for point in points if point.at_s <= window_s)
    last = sorted(point.value for point in points if point.at_s >= end_s - window_s)
    if len(first) < 100 or len(last) < 100:
        return None
    was, now = (some[int(0.99 * (len(some) - 1))] for some in (first, last))
    ratio = now / was
    return Drift(name, was, now, ratio, "drifts" if ratio > SLOWER else "flat")


def _after_warm_up(points: Sequence[Point]) -> list[Point]:
    """Of a run that is short, after its first third."""
    if not points:
        return []
    warm_s = min(WARM_UP_S, points[-1].at_s / 3)
    return [point for point in points if point.at_s >= warm_s]


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else 0.0
