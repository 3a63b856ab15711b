import math
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm

from evals.compare import compare, paired
from evals.paired_tests import bootstrap_95, mcnemar_exact, smallest_difference
from evals.record import MetricScore, SampleRecord


def _record(name: str, **changes: Any) -> SampleRecord:
    fields: dict[str, Any] = {
        "id": name, "index": 0, "input": f"question {name}", "target": "4", "prediction": "4", "extracted": "4",
        "correct": True, "score": 1.0, "finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 1,
        "latency_s": 0.1, "loss": None, "reference_logprob": None, "reference_tokens": 0, "model_digest": "sha256:aa",
        "error": None,
    }  # fmt: skip
    return SampleRecord.model_validate({**fields, **changes})


def test_pairs_are_the_same_questions_that_both_answered() -> None:
    first = [_record("1"), _record("2"), _record("3"), _record("4")]
    second = [_record("4", error="too long"), _record("3", input="another"), _record("1"), _record("5")]
    pairs, left_out = paired(first, second)
    assert [(a.id, b.id) for a, b in pairs] == [("1", "1")]
    assert left_out == {"only_a": 1, "only_b": 1, "different_question": 1, "engine_error": 1}


# Exact binomial values, by hand: (1 + 6 + 15) / 64 = 0.34375 for each side of 2 of 6.
@pytest.mark.parametrize(
    ("fixed", "broken", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (0, 6, 0.03125), (4, 2, 0.6875), (10, 10, 1.0), (0, 4000, 0.0)],
)
def test_mcnemar_is_the_exact_binomial(fixed: int, broken: int, p: float) -> None:
    assert mcnemar_exact(fixed, broken) == pytest.approx(p)


def _scores(both: int, fixed: int, broken: int, neither: int) -> list[tuple[str, MetricScore, MetricScore]]:
    kinds = [(1, 1)] * both + [(0, 1)] * fixed + [(1, 0)] * broken + [(0, 0)] * neither
    return [(str(number), _decided(before), _decided(after)) for number, (before, after) in enumerate(kinds)]


def _decided(right: int) -> MetricScore:
    return MetricScore(value=float(right), correct=bool(right))


def test_what_was_fixed_and_what_broke() -> None:
    report = compare(_scores(both=50, fixed=20, broken=5, neither=25))
    assert (report["paired"], report["fixed"], report["broken"]) == (100, 20, 5)
    assert (report["both_right"], report["both_wrong"]) == (50, 25)
    assert report["fixed_ids"] == [str(number) for number in range(50, 70)]
    assert (report["mean_a"], report["mean_b"]) == (0.55, 0.7)
    assert report["difference"] == pytest.approx(0.15)
    assert report["mcnemar_p"] == pytest.approx(0.00408, abs=1e-5)
    low, high = report["difference_ci95"]
    # The normal interval: 0.15 +- 1.96 sqrt((25 / 100 - 0.15^2) / 100)
    assert (low, high) == pytest.approx((0.0565, 0.2435), abs=0.011)
    assert compare(_scores(50, 20, 5, 25)) == report


def test_questions_of_one_page_widen_the_interval_and_p_as_statsmodels_says() -> None:
    chance = np.random.default_rng(4)
    pages = chance.integers(0, 12, size=240)
    better = chance.random(12)[pages] < 0.5  # a whole page got better, or none of it
    kinds = [(0, 1) if one else (1, 1) for one in better]
    scores = [(str(number), _decided(old), _decided(new)) for number, (old, new) in enumerate(kinds)]
    report = compare(scores, [str(page) for page in pages])
    differences = better.astype(float)
    fitted = sm.OLS(differences, np.ones(240)).fit(cov_type="cluster", cov_kwds={"groups": pages}, use_t=True)
    for ours, theirs in (
        (report["difference"], fitted.params[0]),
        (report["stderr"], fitted.bse[0]),
        (report["difference_ci95"][0], fitted.conf_int()[0][0]),
        (report["difference_ci95"][1], fitted.conf_int()[0][1]),
        (report["t_p"], fitted.pvalues[0]),
    ):
        assert ours == pytest.approx(float(theirs), rel=1e-9, abs=1e-9)
    assert report["p"] == report["t_p"] > 1e6 * report["mcnemar_p"]
    alone = compare(scores)
    assert alone["p"] == alone["mcnemar_p"]
    wide, narrow = (one["difference_ci95"][1] - one["difference_ci95"][0] for one in (report, alone))
    assert wide > 2 * narrow


def test_few_clusters_that_are_all_alike_are_no_certainty() -> None:
    scores = _scores(both=0, fixed=40, broken=0, neither=0)
    report = compare(scores, [str(number // 10) for number in range(40)])
    assert (report["clusters"], report["p"]) == (4, 2 * 0.5**4)
    one = compare(scores, ["page"] * 40)
    assert (one["difference_ci95"], one["stderr"], one["p"]) == (None, None, 1.0)
    graded = [(str(n), MetricScore(value=0.3), MetricScore(value=0.2)) for n in range(3)]
    assert compare(graded)["p"] == 2 * 0.5**3


def test_equal_runs_differ_by_nothing() -> None:
    report = compare(_scores(both=60, fixed=0, broken=0, neither=40))
    assert (report["difference"], report["difference_ci95"], report["mcnemar_p"]) == (0.0, [0.0, 0.0], 1.0)
    assert 0.05 < report["smallest_detectable_difference"] < 0.1


def test_more_questions_show_smaller_differences() -> None:
    found = [smallest_difference(pairs, pairs // 10) for pairs in (100, 1000, 10_000)]
    assert all(value is not None for value in found)
    few, more, many = (value or 0.0 for value in found)
    assert few > 2.5 * more > 2.5 * 2.5 * many > 0
    # Connor (1987), of a share p = 101/1001 of changes: (1.96 sqrt(p) + 0.8416 sqrt(p - d^2)) / sqrt(1000) = d
    assert more == pytest.approx(0.0281, abs=1e-4)
    assert smallest_difference(3, 0) is None


def test_graded_scores_have_no_mcnemar() -> None:
    scores = [(str(n), MetricScore(value=n / 10), MetricScore(value=min(1.0, n / 10 + 0.1))) for n in range(10)]
    report = compare(scores)
    assert "mcnemar_p" not in report
    assert report["difference"] == pytest.approx(0.1)


def test_many_values_have_an_interval_too() -> None:
    differences = [math.sin(number) for number in range(3000)]
    low, high = bootstrap_95(differences)
    assert low < sum(differences) / 3000 < high
