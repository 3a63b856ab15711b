"""How far two log-probabilities are apart, for a proof."""

import math

# Two correct implementations differ by rounding: bfloat16 has 8 bits of mantissa, and logits of 20 to 40 are off by
# up to 1/8. Stale weights of the mildest kind seen (one packed head out of step) are off by some 0.4 on likely tokens.
TOLERANCE = 0.25
# A token that neither thinks possible says nothing: its log-probability is a difference of large numbers.
FLOOR = -12.0


def difference(found: float, expected: float) -> float:
    """Both are held above FLOOR; what is not a finite number counts as infinitely far."""
    if not (math.isfinite(found) and math.isfinite(expected)):
        return math.inf
    return abs(max(found, FLOOR) - max(expected, FLOOR))
