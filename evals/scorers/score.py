"""What a scorer is: a pure function of prediction and target."""

from collections.abc import Callable
from typing import NamedTuple


class Score(NamedTuple):
    """`value` lies between 0 and 1; `correct` is what accuracy counts, None for a graded score such as F1.

    `extracted` is what was taken for the answer; `parsed` is false when no answer was found in the prediction.
    """

    value: float
    correct: bool | None
    extracted: str | None = None
    parsed: bool = True


Scorer = Callable[[str, str], Score]
"""Called with (prediction, target)."""


def best(scores: list[Score]) -> Score:
    """Of the scores against several targets, the first of the highest. At least one is needed."""
    return max(scores, key=lambda score: score.value)
