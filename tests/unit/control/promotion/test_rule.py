import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

from control.promotion.rule import Outcome, Rule, at_any_time, at_the_end, decide, holm, mean_of
from control.promotion.sequential import Floats, Units


def differences(fixed: int, broken: int, same: int, seed: int = 0) -> Floats:
    """In random order."""
    values = np.array([1.0] * fixed + [-1.0] * broken + [0.0] * same)
    return np.random.default_rng(seed).permutation(values)


CLEARLY_BETTER = differences(60, 2, 138)
CLEARLY_WORSE = differences(2, 60, 138)
THE_SAME = differences(0, 0, 400)
HARDLY = differences(12, 8, 180)
NOISY = differences(30, 30, 40)


def outcome(test: str, *metrics: Floats, margin: float = 0.05, sequential: bool = True) -> Outcome:
    rule = Rule.model_validate({"test": test, "margin": margin})
    look = at_any_time if sequential else at_the_end
    units = [Units.of(metric) for metric in metrics]
    return decide(look(units, [margin] * len(metrics)), rule)


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize(
    ("test", "metrics", "decision", "deciding"),
    [
        ("superior", [CLEARLY_BETTER], "promoted", (0,)),
        ("superior", [CLEARLY_WORSE], "refused", (0,)),
        ("superior", [THE_SAME], "undecided", ()),
        ("superior", [HARDLY], "undecided", ()),
        ("superior", [THE_SAME, CLEARLY_BETTER], "promoted", (1,)),
        ("superior", [CLEARLY_BETTER, CLEARLY_WORSE], "refused", (1,)),
        ("superior", [CLEARLY_BETTER, NOISY], "undecided", ()),
        ("non_inferior", [THE_SAME], "promoted", (0,)),
        ("non_inferior", [CLEARLY_BETTER, THE_SAME], "promoted", (0, 1)),
        ("non_inferior", [CLEARLY_WORSE], "refused", (0,)),
        ("non_inferior", [THE_SAME, HARDLY, CLEARLY_WORSE], "refused", (2,)),
        ("non_inferior", [THE_SAME[:20]], "undecided", ()),
    ],
)
def test_decisions(
    test: str, metrics: list[Floats], decision: str, deciding: tuple[int, ...], sequential: bool
) -> None:
    found = outcome(test, *metrics, sequential=sequential)
    assert (found.decision, found.deciding) == (decision, deciding)


def test_it_stops_when_it_is_clear_and_what_follows_changes_nothing() -> None:
    found = outcome("superior", CLEARLY_BETTER)
    assert found.looks < 100
    for more in (found.looks, found.looks + 1, 150):
        assert outcome("superior", CLEARLY_BETTER[:more]) == found
    assert outcome("superior", CLEARLY_BETTER[: found.looks - 1]).decision == "undecided"


def test_a_guard_holds_a_promotion_back_and_refuses_it_at_the_end() -> None:
    evidence = at_any_time([Units.of(CLEARLY_BETTER)], [0.05])
    first = decide(evidence, Rule()).looks
    held = np.zeros(200, dtype=np.bool_)
    held[: first + 20] = True
    assert decide(evidence, Rule(), held) == Outcome("promoted", first + 21, (0,))
    assert decide(evidence, Rule(), np.ones(200, dtype=np.bool_)) == Outcome("refused", 200)
    worse = at_any_time([Units.of(CLEARLY_WORSE)], [0.05])
    assert decide(worse, Rule(), np.ones(200, dtype=np.bool_)).deciding == (0,)


def test_holm_is_statsmodels() -> None:
    p = np.random.default_rng(4).random((5, 40)) ** 4
    p[1] = p[2]
    expected = np.stack([multipletests(column, method="holm")[1] for column in p.T], axis=1)
    assert np.allclose(holm(p), expected, rtol=1e-9, atol=1e-12)
    assert np.array_equal(holm(p[:1]), p[:1])


def test_the_test_at_the_end_is_the_one_of_the_books() -> None:
    found = at_the_end([Units.of(HARDLY)], [0.05])
    assert found.above[0, 0] == pytest.approx(scipy.stats.binomtest(12, 20, alternative="greater").pvalue, abs=1e-9)
    assert found.below[0, 0] == pytest.approx(scipy.stats.binomtest(12, 20, alternative="less").pvalue, abs=1e-9)
    t = scipy.stats.ttest_1samp(HARDLY, -0.05, alternative="greater")
    assert found.above_margin[0, 0] == pytest.approx(t.pvalue, abs=1e-9)


def test_three_equal_answers_are_no_proof_of_anything() -> None:
    assert outcome("non_inferior", np.zeros(3), sequential=False).decision == "undecided"
    assert outcome("superior", np.ones(3), sequential=False).decision == "undecided"


def test_the_mean_is_over_questions() -> None:
    units = Units(np.array([3.0, 0.0, -1.0]), np.array([3.0, 0.0, 1.0]), most=3.0)
    mean, error = mean_of(units)
    assert mean == 0.5
    assert error == pytest.approx(np.sqrt((1.5**2 + 1.5**2) * 2) / 4)
    assert mean_of(Units(np.zeros(1), np.zeros(1))) == (0.0, None)
