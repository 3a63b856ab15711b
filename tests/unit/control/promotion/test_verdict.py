"""What answers in memory decide, when some of them are there, or something is known of one model alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm

from control.promotion.pairs import GUARDS, Answer, Pairs, guard_values
from control.promotion.request import Guard, Named, PromotionConfig, StoredMetric, StoredSet
from control.promotion.rule import Rule
from control.promotion.verdict import look, report
from evals.datasets import DatasetFacts
from evals.record import MetricScore, SampleRecord
from evals.request import EvalConfig

QUESTIONS = 100
METRIC = "numeric"
Mark = Callable[[int], float | None]
FACTS = DatasetFacts(
    name="sums.jsonl", format="question_answer", samples=QUESTIONS, size_bytes=1, digest="sha256:0", ignored_keys=[]
)


def config(guards: dict[Guard, float], *, sequential: bool = True) -> PromotionConfig:
    asked = EvalConfig(model_id="new", name="promotion", dataset_ref="sums", metrics=[METRIC], dataset=FACTS)
    return PromotionConfig(
        candidate=Named(id="new", digest="sha256:new"),
        baseline=Named(id="old", digest="sha256:old"),
        baseline_run=None,
        active=None,
        sets=[StoredSet(eval=asked.stored())],
        metrics=[StoredMetric(set=0, metric=METRIC, margin=0.02)],
        rule=Rule(),
        guards=guards,
        sequential=sequential,
        seed=0,
        on_pass="notify",
    )


def answer(score: float, guard: Guard, mark: float | None) -> Answer:
    marks: dict[Guard, float | None] = dict.fromkeys(GUARDS, 0.0)
    marks[guard] = mark
    return Answer({METRIC: score}, marks)


def better(count: int, guard: Guard, old: Mark, new: Mark) -> Pairs:
    """The candidate is right where the baseline is wrong; the first `count` of all questions are answered."""
    names = [str(number) for number in range(QUESTIONS)]
    pairs = Pairs([[name] for name in names])
    pairs.baseline = {name: answer(0.0, guard, old(int(name))) for name in names[:count]}
    pairs.candidate = {name: answer(1.0, guard, new(int(name))) for name in names[:count]}
    return pairs


@pytest.mark.parametrize("count", [20, 32, 48])
def test_a_guard_that_is_over_for_now_refuses_nothing_while_questions_are_left(count: int) -> None:
    asked = config({"truncated": 0.2})

    def cut_off(number: int) -> float:
        return float(number < 15)

    early = look(asked, [better(count, "truncated", lambda _: 0.0, cut_off)])
    assert early.outcome.decision == "undecided"
    whole = look(asked, [better(QUESTIONS, "truncated", lambda _: 0.0, cut_off)])
    assert (whole.outcome.decision, whole.outcome.looks) == ("promoted", 75)


@pytest.mark.parametrize("sequential", [True, False])
def test_a_guard_that_stays_over_refuses_at_the_end(sequential: bool) -> None:
    asked = config({"truncated": 0.2}, sequential=sequential)
    found = look(asked, [better(QUESTIONS, "truncated", lambda _: 0.0, lambda _: 1.0)])
    assert (found.outcome.decision, found.outcome.deciding) == ("refused", ())


def record(name: str, score: float) -> SampleRecord:
    base: dict[str, Any] = {
        "id": name, "index": int(name), "input": "1+1?", "target": "2", "prediction": "2", "extracted": None,
        "correct": bool(score), "score": score, "finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 1,
        "latency_s": 1.0, "loss": None, "reference_logprob": None, "reference_tokens": 0, "model_digest": "",
        "error": None,
    }  # fmt: skip
    return SampleRecord(**base, scores={METRIC: MetricScore(value=score, correct=bool(score))})


@pytest.mark.parametrize("sequential", [True, False])
def test_a_guard_that_is_known_of_one_model_alone_lets_nothing_pass(sequential: bool) -> None:
    asked = config({"loss": 0.1}, sequential=sequential)
    pairs = better(QUESTIONS, "loss", lambda _: 1.5, lambda _: None)
    found = look(asked, [pairs])
    assert found.outcome.decision == "undecided"
    names = [name for unit in pairs.order for name in unit]
    records = ({name: record(name, 0.0) for name in names}, {name: record(name, 1.0) for name in names})
    said = report(asked, [pairs], [records], found)
    assert said["guards"] == [
        {"guard": "loss", "kind": "difference", "value": None, "limit": 0.1, "over": False},
    ]
    assert said["reasons"][0].startswith("guard loss: no question has it of both models")


def test_a_test_at_the_end_allows_for_clusters_in_all_its_numbers() -> None:
    """Ten questions a page; of half of the pages the candidate knows all that the baseline does not."""
    names = [str(number) for number in range(QUESTIONS)]
    gained = {name: float(int(name) // 10 in {0, 2, 5, 6, 9}) for name in names}
    pairs = Pairs([names[first : first + 10] for first in range(0, QUESTIONS, 10)])
    pairs.baseline = {name: answer(0.0, "tokens", 1.0) for name in names}
    pairs.candidate = {name: answer(gained[name], "tokens", 1.0) for name in names}
    records = ({name: record(name, 0.0) for name in names}, {name: record(name, gained[name]) for name in names})
    asked = config({}, sequential=False)
    (metric,) = report(asked, [pairs], [records], look(asked, [pairs]))["per_metric"]
    pages = [int(name) // 10 for name in names]
    fitted = sm.OLS(np.array(list(gained.values())), np.ones(QUESTIONS)).fit(
        cov_type="cluster", cov_kwds={"groups": pages}, use_t=True
    )
    assert metric["clusters"] == 10
    assert metric["stderr"] == pytest.approx(float(fitted.bse[0]), rel=1e-9)
    assert metric["interval"] == pytest.approx(list(fitted.conf_int()[0]), rel=1e-9)
    assert metric["p"] == pytest.approx(float(fitted.pvalues[0]) / 2, rel=1e-9)
    assert metric["interval"][1] - metric["interval"][0] > 0.6, "five pages of ten, not fifty questions of a hundred"


def test_one_cluster_has_no_interval_and_decides_nothing() -> None:
    names = [str(number) for number in range(QUESTIONS)]
    pairs = Pairs([names])
    pairs.baseline = {name: answer(0.0, "tokens", 1.0) for name in names}
    pairs.candidate = {name: answer(1.0, "tokens", 1.0) for name in names}
    records = ({name: record(name, 0.0) for name in names}, {name: record(name, 1.0) for name in names})
    asked = config({}, sequential=False)
    said = report(asked, [pairs], [records], look(asked, [pairs]))
    assert (said["decision"], said["per_metric"][0]["interval"]) == ("undecided", None)
    (reason,) = said["reasons"]
    assert reason.startswith("numeric on sums.jsonl is open: +1.000 over 100 pairs, 100 fixed and 0 broken;")


@pytest.mark.parametrize(("old", "new", "expected"), [(0.0, 0.0, 1.0), (2.0, 3.0, 1.5), (0.0, 1.0, 1e9)])
def test_a_ratio_to_nothing(old: float, new: float, expected: float) -> None:
    pairs = better(3, "tokens", lambda _: old, lambda _: new)
    assert guard_values([(pairs, 3)], "tokens").tolist() == [expected] * 3
