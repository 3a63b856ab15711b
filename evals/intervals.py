"""How sure a proportion is."""

import math

_Z_95 = 1.959963984540054  # the 0.975 quantile of the normal distribution


def standard_error(successes: int, trials: int) -> float:
    """Of a proportion: sqrt(p (1 - p) / n). `trials` is at least 1."""
    share = successes / trials
    return math.sqrt(share * (1 - share) / trials)


def wilson_95(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's score interval (1927), 95 %, without continuity correction: method 3 of Newcombe (1998).

    `trials` is at least 1. Lies within [0, 1]; a count of none or all touches that end exactly.
    """
    share = successes / trials
    spread = _Z_95**2 / trials
    centre = (share + spread / 2) / (1 + spread)
    half = _Z_95 * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high
