"""Our statistics against scipy's and statsmodels'."""

import numpy as np
import pytest
import scipy.stats
import statsmodels.api as sm
from scipy.stats._resampling import BootstrapResult

from evals.clusters import clustered_mean, spread_of
from evals.intervals import mean_error
from evals.paired_tests import (
    bca_95,
    bootstrap_95,
    incomplete_beta,
    mcnemar_better,
    mcnemar_exact,
    paired_t,
    student_95,
    student_upper_tail,
)
from evals.scoring import pass_at_k

EXACT = 1e-9


def close(value: float, expected: float) -> bool:
    return value == pytest.approx(expected, rel=EXACT, abs=EXACT)


@pytest.mark.parametrize(("fixed", "broken"), [(0, 0), (1, 0), (7, 3), (3, 7), (40, 22), (0, 90), (512, 480)])
def test_mcnemar_is_scipys_binomial_test(fixed: int, broken: int) -> None:
    changes = fixed + broken
    if changes == 0:
        assert mcnemar_exact(0, 0) == mcnemar_better(0, 0) == 1.0
        return
    assert close(mcnemar_exact(fixed, broken), scipy.stats.binomtest(fixed, changes).pvalue)
    assert close(mcnemar_better(fixed, broken), scipy.stats.binomtest(fixed, changes, alternative="greater").pvalue)


def test_students_tail_is_scipys() -> None:
    for freedom in (1, 2, 5, 29, 1000, 100_000):
        for t in (-40.0, -2.5, -1e-6, 0.0, 1e-3, 0.7, 1.0, 2.0, 6.5, 35.0):
            assert close(student_upper_tail(t, freedom), float(scipy.stats.t.sf(t, freedom))), (t, freedom)
    for a, b, x in ((0.5, 0.5, 0.5), (3.0, 0.5, 0.99), (200.0, 0.5, 0.3), (2.0, 7.0, 0.1)):
        assert close(incomplete_beta(a, b, x), float(scipy.special.betainc(a, b, x)))


def test_paired_t_is_scipys() -> None:
    chance = np.random.default_rng(7)
    for count in (2, 5, 40, 400):
        before, after = chance.random(count), chance.random(count)
        mean, error = mean_error(list(after - before))
        upper, lower = paired_t(mean, error, count - 1)
        assert close(upper, float(scipy.stats.ttest_rel(after, before, alternative="greater").pvalue))
        assert close(lower, float(scipy.stats.ttest_rel(after, before, alternative="less").pvalue))
        margin = 0.1
        shifted = scipy.stats.ttest_1samp(after - before, -margin, alternative="greater").pvalue
        assert close(paired_t(mean, error, count - 1, -margin)[0], float(shifted))


@pytest.mark.parametrize("freedom", [1, 2, 3, 9, 40, 5000])
def test_students_interval_is_scipys_and_excludes_what_its_test_rejects(freedom: int) -> None:
    low, high = student_95(0.2, 0.03, freedom)
    expected = scipy.stats.t.interval(0.95, freedom, loc=0.2, scale=0.03)
    assert close(low, float(expected[0]))
    assert close(high, float(expected[1]))
    assert close(paired_t(0.2, 0.03, freedom, low)[0], 0.025)


def test_without_spread_or_pairs_t_says_what_is_certain_and_no_more() -> None:
    assert paired_t(0.3, 0.0, 9) == (0.0, 1.0)
    assert paired_t(0.0, 0.0, 9) == (1.0, 1.0)
    assert paired_t(0.3, None, 0) == (1.0, 1.0)


@pytest.mark.parametrize("share", [(0.05, 0.9, 0.05), (0.1, 0.6, 0.3), (0.0, 0.97, 0.03)])
def test_the_bootstrap_interval_is_scipys_bca(share: tuple[float, float, float]) -> None:
    chance = np.random.default_rng(3)
    differences = chance.choice([-1.0, 0.0, 1.0], size=128, p=share)  # a power of two: means are exact
    values, counts = np.unique(differences, return_counts=True)
    resampled = chance.choice(differences, size=(4000, 128)).mean(axis=1)
    same = scipy.stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=0,
        bootstrap_result=BootstrapResult(None, resampled, 0.0),
        method="BCa",
    )
    low, high = bca_95(resampled, values, counts)
    assert close(low, same.confidence_interval.low)
    assert close(high, same.confidence_interval.high)
    own = scipy.stats.bootstrap((differences,), np.mean, n_resamples=20_000, method="BCa", rng=chance)
    assert bootstrap_95(list(differences)) == pytest.approx(tuple(own.confidence_interval), abs=0.012)


def test_clustered_errors_are_statsmodels() -> None:
    chance = np.random.default_rng(5)
    clusters = chance.integers(0, 25, size=300)
    values = chance.random(300) + 0.8 * chance.random(25)[clusters]
    found = clustered_mean(list(values), [str(cluster) for cluster in clusters])
    fitted = sm.OLS(values, np.ones(300)).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    assert found.clusters == 25
    assert close(found.mean, float(fitted.params[0]))
    assert found.error is not None
    assert close(found.error, float(fitted.bse[0]))
    alone = clustered_mean(list(values), [str(number) for number in range(300)])
    assert alone.error is not None
    assert close(alone.error, float(scipy.stats.sem(values)))
    robust = sm.OLS(values, np.ones(300)).fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    low, high = student_95(found.mean, found.error, found.clusters - 1)
    assert close(low, float(robust.conf_int()[0][0]))
    assert close(high, float(robust.conf_int()[0][1]))
    assert found.error > 1.3 * alone.error, "questions of one document say less than as many of their own"


def test_repeated_answers_are_split_into_within_and_between() -> None:
    chance = np.random.default_rng(9)
    answers = (chance.random((400, 8)) < chance.beta(2, 2, size=(400, 1))).astype(float)
    found = spread_of([list(row) for row in answers])
    assert found is not None
    # One-way analysis of variance: F = mean square between / mean square within.
    f = float(scipy.stats.f_oneway(*answers).statistic)
    assert close((8 * found.between + found.within) / found.within, f)
    assert found.error is not None
    assert close(found.error, float(scipy.stats.sem(answers.mean(axis=1))))
    assert close(found.error**2, (found.between + found.within / 8) / 400)
    assert spread_of([[1.0], [0.0]]) is None


@pytest.mark.parametrize(("n", "right", "k"), [(10, 3, 1), (10, 3, 5), (200, 7, 100), (5, 5, 2), (5, 0, 5)])
def test_pass_at_k_is_the_hypergeometric_chance(n: int, right: int, k: int) -> None:
    assert close(pass_at_k(n, right, k), float(1 - scipy.stats.hypergeom(n, right, k).pmf(0)))
