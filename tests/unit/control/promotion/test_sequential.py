"""Tests that may be looked at after every pair: how often they err, and what they save."""

import numpy as np
import pytest

from control.promotion.rule import Rule, at_any_time, decide
from control.promotion.sequential import Floats, Units, interval, p_above, p_below, smallest_shown

ALPHA = 0.05
PROMOTIONS = 10_000
PAIRS = 120


def drawn(seed: int, fixed: float, broken: float, runs: int = PROMOTIONS, pairs: int = PAIRS) -> Floats:
    """Differences [runs, pairs] of which so many are 1 and -1."""
    chance = np.random.default_rng(seed).random((runs, pairs))
    return (chance < fixed).astype(np.float64) - (chance > 1 - broken)


# In each the candidate is exactly as bad as it may not be: chance alone would have to promote it.
@pytest.mark.parametrize(
    ("fixed", "broken", "margin"),
    [(0.1, 0.1, 0.0), (0.4, 0.4, 0.0), (0.01, 0.01, 0.0), (0.05, 0.1, 0.05), (0.0, 0.05, 0.05), (0.2, 0.4, 0.2)],
)
def test_of_10_000_promotions_without_merit_alpha_pass_at_most(fixed: float, broken: float, margin: float) -> None:
    ever = p_above(Units.of(drawn(1, fixed, broken)), -margin)[:, -1] <= ALPHA
    assert ever.sum() <= ALPHA * PROMOTIONS
    mirrored = p_below(Units.of(-drawn(1, fixed, broken)), margin)[:, -1] <= ALPHA
    assert np.array_equal(mirrored, ever)


def test_whoever_peeks_at_a_fixed_test_errs_far_more_often() -> None:
    """That the simulation can tell: a t test looked at after every pair passes several times alpha."""
    differences = drawn(3, 0.1, 0.1, runs=2000)
    count = np.arange(1, PAIRS + 1)
    mean = np.cumsum(differences, axis=1) / count
    error = np.sqrt((np.cumsum(differences**2, axis=1) / count - mean**2) / count)
    peeked = np.any((mean > 1.645 * error)[:, 30:] & (error > 0)[:, 30:], axis=1)
    assert peeked.mean() > 3 * ALPHA


def test_a_suite_of_nulls_is_promoted_no_more_often_than_one() -> None:
    """Superior on any of four metrics, by chance: Holm's correction holds while one may stop at any time."""
    seeds = 600
    rule = Rule(test="superior", margin=0.3, alpha=ALPHA)
    metrics = [drawn(10 + number, 0.1, 0.1, runs=seeds, pairs=100) for number in range(4)]
    promoted = 0
    for run in range(seeds):
        evidence = at_any_time([Units.of(differences[run]) for differences in metrics], [0.3] * 4)
        promoted += decide(evidence, rule).decision == "promoted"
    assert promoted <= ALPHA * seeds


def test_questions_of_one_cluster_do_not_count_as_many() -> None:
    """Ten questions a document that are all fixed or all broken together: by question the null is passed too often."""
    documents = np.repeat(drawn(5, 0.3, 0.3, runs=4000, pairs=40)[:, :, None], 10, axis=2)
    as_questions = p_above(Units.of(documents.reshape(4000, 400)), 0.0)[:, -1] <= ALPHA
    sizes = np.full(documents.shape[:2], 10.0)
    as_clusters = p_above(Units(documents.sum(axis=2), sizes, most=10.0), 0.0)[:, -1] <= ALPHA
    assert as_clusters.mean() <= ALPHA < as_questions.mean() / 3


def test_clusters_of_unequal_size_bet_on_the_mean_over_questions() -> None:
    chance = np.random.default_rng(6)
    sizes = chance.integers(1, 6, size=(4000, 80)).astype(np.float64)
    fixed = chance.binomial(sizes.astype(int), 0.15)
    broken = chance.binomial(sizes.astype(int) - fixed, 0.25 / 0.85)
    sums: Floats = (fixed - broken).astype(np.float64)
    units = Units(sums, sizes, most=5.0)
    assert (p_above(units, -0.1)[:, -1] <= ALPHA).mean() <= ALPHA
    assert (p_below(units, 0.0)[:, -1] <= ALPHA).mean() > 0.2


def test_the_interval_holds_after_every_unit() -> None:
    missed = 0
    for differences in drawn(7, 0.3, 0.1, runs=300, pairs=120):
        low, high = interval(Units.of(differences), ALPHA)
        missed += not low <= 0.2 <= high
        assert low <= differences.mean() <= high
    assert missed <= ALPHA * 300
    narrow = interval(Units.of(drawn(8, 0.3, 0.1, runs=1, pairs=3000)[0]), ALPHA)
    assert 0.1 < narrow[0] < 0.2 < narrow[1] < 0.3
    assert interval(Units.of(np.zeros(0)), ALPHA) == (-1.0, 1.0)


def test_the_interval_and_the_test_say_the_same() -> None:
    units = Units.of(drawn(9, 0.25, 0.1, runs=1, pairs=200)[0])
    stops = int(np.argmax(p_above(units, 0.0) <= ALPHA)) + 1
    assert 0 <= interval(units.first(stops), 2 * ALPHA)[0] < 0.02
    assert interval(units.first(stops - 1), 2 * ALPHA)[0] < 0


@pytest.mark.parametrize(("pairs", "changes"), [(200, 0.1), (1000, 0.3), (100, 0.02)])
def test_the_smallest_difference_is_shown_four_times_out_of_five(pairs: int, changes: float) -> None:
    seen = drawn(11, changes / 2, changes / 2, runs=1, pairs=pairs)
    difference = smallest_shown(Units.of(seen[0]), ALPHA, 0.0)
    assert difference is not None
    share = max(difference, float(np.abs(seen).mean()))
    such = drawn(12, (share + difference) / 2, (share - difference) / 2, runs=1000, pairs=pairs)
    power = (p_above(Units.of(such), 0.0)[:, -1] <= ALPHA).mean()
    assert 0.75 < power < 0.99
    more = smallest_shown(Units.of(np.tile(seen[0], 4)), ALPHA, 0.0)
    assert more is not None
    assert more < difference
    assert smallest_shown(Units.of(np.zeros(3)), ALPHA, 0.0) is None
    assert smallest_shown(Units.of(np.zeros(0)), ALPHA, 0.0) is None


def test_a_clear_difference_needs_half_the_samples_of_a_test_for_half_of_it() -> None:
    """A fixed test has to be planned for the smallest difference of interest; this one stops when it is clear."""
    differences = drawn(13, 0.15, 0.05, runs=2000, pairs=1200)
    hit = p_above(Units.of(differences), 0.0) <= ALPHA
    needed = np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, 1200)
    planned = (1.645 + 0.842) ** 2 * 0.2 / 0.05**2  # for a difference of 0.05 at 80 % power: 495
    assert needed.mean() < planned / 2
