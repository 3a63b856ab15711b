"""How far two models' log-probabilities of the same tokens are apart."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

# A token that both find impossible says nothing: its log-probability is a difference of large numbers, and every other
# model may find it impossible too. Such tokens are not compared.
FLOOR = -12.0


@dataclass(frozen=True, slots=True)
class Difference:
    """Of log-probabilities, in nats, over the tokens that say something; `inf` when one is not a finite number."""

    tokens: int
    mean: float
    most: float


def compare(found: Sequence[Sequence[float]], expected: Sequence[Sequence[float]]) -> Difference:
    """Both [n_prompts][n_tokens - 1]; where a row of one is shorter, the rest of the other is left out."""
    apart: list[float] = []
    for row, reference_row in zip(found, expected, strict=False):
        for mine, theirs in zip(row, reference_row, strict=False):
            if not (math.isfinite(mine) and math.isfinite(theirs)):
                return Difference(len(apart), math.inf, math.inf)
            if max(mine, theirs) > FLOOR:
                apart.append(abs(max(mine, FLOOR) - max(theirs, FLOOR)))
    return Difference(len(apart), fmean(apart) if apart else 0.0, max(apart, default=0.0))
