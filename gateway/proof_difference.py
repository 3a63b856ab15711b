"""How far two log-probabilities are apart, for a proof."""

import math

# Held to the mean over all tokens. Two correct implementations differ by rounding: for a model in bfloat16 the mean was
# 0.04 to 0.07 here, while single unlikely tokens were 1 to 3 apart. Stale weights were 5 apart in the mean.
TOLERANCE = 0.25
# A token that neither thinks possible says nothing: its log-probability is a difference of large numbers.
FLOOR = -12.0


def difference(found: float, expected: float) -> float:
    """Both are held above FLOOR; what is not a finite number counts as infinitely far."""
    if not (math.isfinite(found) and math.isfinite(expected)):
        return math.inf
    return abs(max(found, FLOOR) - max(expected, FLOOR))
