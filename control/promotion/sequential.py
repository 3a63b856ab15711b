"""Tests of a mean of paired differences that may be looked at after every pair and stopped whenever one likes.

A test by betting (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86, 2024):
somebody who believes that the mean is larger than `than` bets a share of his capital on each next difference. If the
mean is not larger, his capital has no tendency to grow, whatever the rest of the distribution, and the chance that it
ever reaches 1 / alpha is at most alpha (Ville's inequality). So 1 / (largest capital so far) is a p that holds at any
time. The shares are not tuned to the data: capital is split evenly over a fixed list of them (the method of mixtures,
Robbins 1970), whose sum bets well enough for small and for large differences, and does not depend on the order of what
was seen.

A unit is a question, or all questions of one cluster: units are independent of each other and come in random order.
Differences of scores between 0 and 1 lie between -1 and 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)
"""Of the capital that a bet could lose at most."""
_Z_POWER = 0.8416212335729143  # the 0.8 quantile of the normal distribution
_HALVINGS = 40
_NEAREST = 1 - 1e-6


@dataclass(frozen=True, slots=True)
class Units:
    """`sums` and `sizes` [..., n]: of each unit the sum of its differences and how many they are (0: none counts).

    `most` is the largest size that a unit can have.
    """

    sums: Floats
    sizes: Floats
    most: float = 1.0

    @classmethod
    def of(cls, differences: Floats) -> "Units":
        """Every difference [..., n] a unit of its own."""
        return cls(differences, np.ones_like(differences))

    @property
    def mirrored(self) -> "Units":
        return Units(-self.sums, self.sizes, self.most)

    def first(self, count: int) -> "Units":
        return Units(self.sums[..., :count], self.sizes[..., :count], self.most)


def p_above(units: Units, than: float) -> Floats:
    """[..., n]: after each unit a p against "the mean is at most `than`", which only falls. `than` lies within ±1."""
    largest = np.maximum.accumulate(_log_capital(units, than), axis=-1)
    p: Floats = np.exp(-np.maximum(largest, 0.0))
    return p


def p_below(units: Units, than: float) -> Floats:
    """The same against "the mean is at least `than`"."""
    return p_above(units.mirrored, -than)


def interval(units: Units, alpha: float) -> tuple[float, float]:
    """Of the mean, after the last unit [n]: all values against which neither side's capital is 2 / alpha now.

    Such intervals hold after all units at once, with a chance of 1 - alpha (a confidence sequence).
    """
    return _lower_end(units, alpha / 2), -_lower_end(units.mirrored, alpha / 2)


def smallest_shown(units: Units, alpha: float, than: float) -> float | None:
    """The mean that so many units would have shown to be above `than` four times out of five; None: not even 1.

    By the growth of the capital under the one best share, its spread by the normal approximation, the price of the
    mixture paid in full. The differences are taken to be as large and as frequent as those seen (one more than there
    were), or as frequent as the mean itself needs.
    """
    count = int(np.count_nonzero(units.sizes))
    if count == 0:
        return None
    means = units.sums[units.sizes > 0] / units.sizes[units.sizes > 0]
    seen = min(1.0, (float(np.sum(means**2)) + 1) / (count + 1))
    need = math.log(len(SHARES) / alpha)

    def shown(mean: float) -> bool:
        changes = max(seen, abs(mean))
        up, down = (changes + mean) / 2, (changes - mean) / 2
        for share in SHARES:
            bet = share / (1 + than)
            outcomes = [(up, 1.0), (down, -1.0), (1 - changes, 0.0)]
            logs = [(chance, math.log1p(bet * (value - than))) for chance, value in outcomes]
            rate = sum(chance * log for chance, log in logs)
            variance = sum(chance * (log - rate) ** 2 for chance, log in logs)
            if count * rate - _Z_POWER * math.sqrt(count * max(0.0, variance)) >= need:
                return True
        return False

    if not shown(1.0):
        return None
    low, high = than, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if shown(middle) else (middle, high)
    return high


def _log_capital(units: Units, than: float) -> Floats:
    """[..., n]: the logarithm of the capital after each unit; it begins with 1."""
    gained = (units.sums - than * units.sizes) / units.most
    total: Floats | None = None
    for share in SHARES:
        one = np.cumsum(np.log1p(share / (1 + than) * gained), axis=-1)
        total = one if total is None else np.logaddexp(total, one)
    assert total is not None
    return total - math.log(len(SHARES))


def _lower_end(units: Units, alpha: float) -> float:
    """The largest mean that is rejected as too low; -1: none is."""

    def rejected(than: float) -> bool:
        return bool(units.sums.size) and float(_log_capital(units, than)[-1]) >= -math.log(alpha)

    return _last(rejected, -_NEAREST, _NEAREST) if rejected(-_NEAREST) else -1.0


def _last(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Where it ceases to hold; it holds at `low`."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
