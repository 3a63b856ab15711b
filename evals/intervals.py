"""How sure a proportion, a mean or a ratio of sums is. Intervals are of 95 %."""

import math
from collections.abc import Sequence

Z_95 = 1.959963984540054  # the 0.975 quantile of the normal distribution


def standard_error(successes: int, trials: int) -> float:
    """Of a proportion: sqrt(p (1 - p) / n). `trials` is at least 1."""
    share = successes / trials
    return math.sqrt(share * (1 - share) / trials)


def wilson_95(successes: float, trials: int) -> tuple[float, float]:
    """Wilson's score interval (1927), 95 %, without continuity correction: method 3 of Newcombe (1998).

    `trials` is at least 1. Lies within [0, 1]; a count of none or all touches that end exactly.
    """
    share = successes / trials
    spread = Z_95**2 / trials
    centre = (share + spread / 2) / (1 + spread)
    half = Z_95 * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high


def mean_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and its standard error, s / sqrt(n) with the sample's s; no error from fewer than two values."""
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, math.sqrt(variance / count)


def ratio_error(above: Sequence[float], below: Sequence[float]) -> tuple[float, float | None]:
    """sum(above) / sum(below) over pairs, and its standard error by linearisation (Cochran 1977, section 2.11)."""
    count, total = len(above), math.fsum(below)
    ratio = math.fsum(above) / total
    if count < 2:
        return ratio, None
    residual = math.fsum((up - ratio * down) ** 2 for up, down in zip(above, below, strict=True))
    return ratio, math.sqrt(residual * count / (count - 1)) / total


def normal_95(mean: float, error: float, low: float = -math.inf, high: float = math.inf) -> tuple[float, float]:
    """mean ± 1.96 errors, cut off at what is possible."""
    return max(low, mean - Z_95 * error), min(high, mean + Z_95 * error)
