"""Tests of paired differences with a number of samples that was fixed before: how likely is so much by chance?

Tests that may be looked at while samples come in are in control.promotion.sequential.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from evals.intervals import Z_95, mean_error

RESAMPLES = 10_000
_MOST_VALUES = 1000
_Z_POWER = 0.8416212335729143  # the 0.8 quantile of the normal distribution
_SEED = 20250101
_NORMAL = NormalDist()
_TINY = 1e-300
_FRACTIONS = 100_000
_WIDEST_T = 16.0  # above the 0.975 quantile with one degree of freedom
_HALVINGS = 60

Floats = NDArray[np.float64]


def mcnemar_exact(fixed: int, broken: int) -> float:
    """Two-sided exact p of McNemar's test: the chance of a split at least as uneven of so many changes, were either
    direction as likely (binomial, one half). 1 without any change.
    """
    return min(1.0, 2 * _lower_tail(min(fixed, broken), fixed + broken))


def mcnemar_better(fixed: int, broken: int) -> float:
    """One-sided exact p against "no better": the chance of at least `fixed` of so many changes. 1 without any."""
    return _lower_tail(broken, fixed + broken)


def _lower_tail(most: int, trials: int) -> float:
    """P(X <= most) of a binomial with one half, by whole numbers."""
    term = total = 1
    for k in range(most):
        term = term * (trials - k) // (k + 1)
        total += term
    return total / (1 << trials)


def paired_t(mean: float, error: float | None, freedom: int, than: float = 0.0) -> tuple[float, float]:
    """One-sided p of Student's t against "the mean is at most `than`" and against "it is at least `than`".

    `error`: the standard error of the mean, with `freedom` degrees of freedom (pairs, or clusters, less one). Without
    any spread a mean other than `than` has a p of 0; without an error (one pair) both are 1.
    """
    if error is None or freedom < 1:
        return 1.0, 1.0
    if error == 0:
        return (0.0 if mean > than else 1.0), (0.0 if mean < than else 1.0)
    upper = student_upper_tail((mean - than) / error, freedom)
    return upper, student_upper_tail((than - mean) / error, freedom)


def student_upper_tail(t: float, freedom: int) -> float:
    """P(T > t) of Student's distribution, by the regularised incomplete beta function."""
    share = t * t / (freedom + t * t)
    if share < 0.5:  # 1 - share would lose what is small in it
        inner = math.copysign(incomplete_beta(0.5, freedom / 2, share) / 2, t)
        return 0.5 - inner
    tail = incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t)) / 2
    return tail if t > 0 else 1 - tail


def student_95(mean: float, error: float, freedom: int) -> tuple[float, float]:
    """The 95 % interval that excludes just what paired_t rejects; `freedom` is at least 1."""
    low, high = 0.0, _WIDEST_T
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if student_upper_tail(middle, freedom) > 0.025 else (low, middle)
    return mean - high * error, mean + high * error


def incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b), by its continued fraction (DLMF 8.17.22) in Lentz's form, to about 1e-13."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, 1 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )  # fmt: skip
    c, d = 1.0, 1 / _kept(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, _FRACTIONS):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _kept(1 + step * d)
            c = _kept(1 + step / c)
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * fraction / a


def _kept(value: float) -> float:
    """Away from zero, since it is divided by."""
    return value if abs(value) > _TINY else _TINY


def bootstrap_95(differences: Sequence[float], resamples: int = RESAMPLES, seed: int = _SEED) -> tuple[float, float]:
    """The bias-corrected and accelerated interval (Efron 1987) of the mean over resampled pairs; the same every time.

    Equal differences are drawn together, by their counts (multinomial), which is the same distribution. Beyond a
    thousand different values (graded metrics) it is near enough to the normal one, which is taken then.
    """
    values, counts = np.unique(np.asarray(differences, dtype=np.float64), return_counts=True)
    if len(values) > _MOST_VALUES:
        mean, error = mean_error(differences)
        spread = Z_95 * (error or 0.0)
        return mean - spread, mean + spread
    total = len(differences)
    drawn = np.random.default_rng(seed).multinomial(total, counts / total, size=resamples)
    return bca_95(drawn @ values / total, values, counts)


def bca_95(resampled: Floats, values: Floats, counts: NDArray[np.int64]) -> tuple[float, float]:
    """Of the mean of `values` [n_values], each there `counts` times; `resampled` [n_resamples] are means of resamples.

    The acceleration is by the jackknife; a resampled mean equal to the mean counts as half below it.
    """
    total = int(counts.sum())
    mean = float(values @ counts / total)
    resampled = np.round(resampled, 12)  # sums of the same numbers in another order are the same mean
    below = (np.count_nonzero(resampled < round(mean, 12)) + np.count_nonzero(resampled <= round(mean, 12))) / 2
    share = below / len(resampled)
    if not 0 < share < 1 or len(values) == 1:  # there is no spread, or no resample lies on the other side
        low, high = np.quantile(resampled, (0.025, 0.975))
        return float(low), float(high)
    bias = _NORMAL.inv_cdf(share)
    # Of leaving out one value: (total * mean - value) / (total - 1), so mean - value over total - 1 from their mean.
    influence = values - mean
    squares = float(counts @ influence**2)
    acceleration = float(counts @ influence**3) / (6 * squares**1.5) if squares else 0.0
    ends = []
    for z in (-Z_95, Z_95):
        shifted = bias + z
        ends.append(_NORMAL.cdf(bias + shifted / (1 - acceleration * shifted)))
    low, high = np.quantile(resampled, ends)
    return float(low), float(high)


def smallest_difference(pairs: int, changes: int) -> float | None:
    """The difference between two proportions that so many pairs would show (two-sided 5 %) four times out of five.

    Connor's approximation (1987) for McNemar's test, at the share of changes that was seen (one more than there was),
    or at the difference itself where that is larger. Null where not even 1 would be enough.
    """
    seen = min(1.0, (changes + 1) / (pairs + 1))
    low, high = 0.0, 1.0

    def shown(difference: float) -> bool:
        share = max(seen, difference)
        need = Z_95 * math.sqrt(share) + _Z_POWER * math.sqrt(max(0.0, share - difference**2))
        return difference * math.sqrt(pairs) >= need

    if not shown(high):
        return None
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if shown(middle) else (middle, high)
    return high


def smallest_mean_difference(error: float | None) -> float | None:
    """The same of a mean with this standard error."""
    return None if error is None else (Z_95 + _Z_POWER) * error
