"""Questions that belong together (of one document, of one template), and questions that were answered several times."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from evals.intervals import mean_error


@dataclass(frozen=True, slots=True)
class ClusteredMean:
    """A mean over questions, or a ratio of sums over them; `error` None with fewer than two clusters."""

    mean: float
    error: float | None
    clusters: int


def clustered_mean(values: Sequence[float], clusters: Sequence[Hashable]) -> ClusteredMean:
    """The mean of `values` [n] and its standard error where those of one cluster [n] may go together.

    The sandwich estimator of Liang and Zeger (1986) with the small-sample factor G / (G - 1) * (n - 1) / (n - 1) of one
    parameter, which is that of statsmodels' `cov_type="cluster"`. With clusters of one it is s / sqrt(n).
    """
    return clustered_ratio(values, [1.0] * len(values), clusters)


def clustered_ratio(above: Sequence[float], below: Sequence[float], clusters: Sequence[Hashable]) -> ClusteredMean:
    """sum(above) / sum(below) over questions [n], with the same estimator: that of a weighted mean of above / below."""
    total = math.fsum(below)
    ratio = math.fsum(above) / total
    residuals: dict[Hashable, list[float]] = {}
    for up, down, cluster in zip(above, below, clusters, strict=True):
        residuals.setdefault(cluster, []).append(up - ratio * down)
    groups = len(residuals)
    if groups < 2:
        return ClusteredMean(ratio, None, groups)
    squares = math.fsum(math.fsum(each) ** 2 for each in residuals.values())
    return ClusteredMean(ratio, math.sqrt(squares * groups / (groups - 1)) / total, groups)


@dataclass(frozen=True, slots=True)
class Spread:
    """Variances of one answer's score: `within` a question from answer to answer, `between` questions.

    `error` of the mean over all answers is sqrt((between + within / n) / questions): more answers a question lessen
    only the second part.
    """

    within: float
    between: float
    error: float | None


def spread_of(answers: Sequence[Sequence[float]]) -> Spread | None:
    """Of the scores of the same number n > 1 of answers to each question: [n_questions][n].

    One-way random effects by the method of moments; a negative estimate of `between` is 0. None where questions have
    one answer, or there are fewer than two.
    """
    each = len(answers[0]) if answers else 0
    if each < 2 or len(answers) < 2 or any(len(one) != each for one in answers):
        return None
    means = [math.fsum(one) / each for one in answers]
    _, error = mean_error(means)
    assert error is not None
    squares = (math.fsum((value - mean) ** 2 for value in one) for one, mean in zip(answers, means, strict=True))
    within = math.fsum(squares) / (len(answers) * (each - 1))
    return Spread(within, max(0.0, error**2 * len(answers) - within / each), error)
