"""What a scorer is: a pure function of prediction and target."""

from collections.abc import Callable
from typing import NamedTuple


class Score(NamedTuple):
    """`value` lies between 0 and 1; `correct` is what accuracy counts."""

    value: float
    correct: bool


Scorer = Callable[[str, str], Score]
"""Called with (prediction, target)."""
