"""What answers in memory decide, when some of them are there, or something is known of one model alone."""

from collections.abc import Callable
from typing import Any

import pytest

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


@pytest.mark.parametrize(("old", "new", "expected"), [(0.0, 0.0, 1.0), (2.0, 3.0, 1.5), (0.0, 1.0, 1e9)])
def test_a_ratio_to_nothing(old: float, new: float, expected: float) -> None:
    pairs = better(3, "tokens", lambda _: old, lambda _: new)
    assert guard_values([(pairs, 3)], "tokens").tolist() == [expected] * 3
