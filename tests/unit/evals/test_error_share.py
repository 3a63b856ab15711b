from typing import Any

import pytest

from evals.error_share import ErrorShare
from evals.metrics import decisive
from evals.record import MetricScore, SampleRecord
from evals.tally import Tally


def _record(error: str | None = None, **changes: Any) -> SampleRecord:
    fields: dict[str, Any] = {
        "id": "1", "index": 0, "input": "q", "target": "a", "prediction": "a", "extracted": "a", "correct": True,
        "score": 1.0, "finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 1, "latency_s": 0.1,
        "loss": None, "reference_logprob": None, "reference_tokens": 0, "model_digest": "sha256:aa", "error": error,
    }  # fmt: skip
    return SampleRecord.model_validate({**fields, **changes})


def _share(samples: int, max_share: float = 0.02, metric: str = "accuracy") -> ErrorShare:
    return ErrorShare(decisive([metric]), samples, max_share)


def test_as_many_errors_as_are_allowed_and_one_more() -> None:
    share = _share(100)
    for error in ("prompt of 700 tokens", "prompt of 800 tokens", None):
        share.add(_record(error))
    assert share.exceeded() is None
    share.add(_record("out of luck"))
    assert share.exceeded() == (
        "3 of the 4 samples asked so far have no result (max_error_share 0.02 allows 2 of 100);"
        " most often (2 times): prompt of 700 tokens"
    )


@pytest.mark.parametrize(("samples", "max_share", "allowed"), [(50, 0.02, 1), (100, 0.29, 29), (10, 0.0, 0), (7, 1, 6)])
def test_the_share_is_exact(samples: int, max_share: float, allowed: int) -> None:
    share = _share(samples, max_share)
    for _ in range(samples - allowed - 1):
        share.add(_record())
    for _ in range(allowed):
        share.add(_record("no"))
    assert share.exceeded() is None
    share.add(_record("no"))
    assert share.exceeded() is not None


def test_a_model_that_answers_nothing_is_given_up_at_once() -> None:
    share = _share(100_000, 0.9)
    for _ in range(16):
        assert share.exceeded() is None
        share.add(_record("no chat template"))
    assert str(share.exceeded()).startswith("16 of the 16 samples asked so far have no result (none has one)")


def test_long_prompts_first_are_no_reason_to_give_up() -> None:
    share = _share(10_000)
    for _ in range(200):
        share.add(_record("too long", too_long=True))
        assert share.exceeded() is None


@pytest.mark.parametrize("metric", ["judge", "acc"])
def test_what_could_not_be_judged_is_an_error_and_no_verdict(metric: str) -> None:
    down = {metric: MetricScore(value=0.0, correct=False, parsed=False, error="cannot be reached")}
    right = {metric: MetricScore(value=1.0, correct=True)}
    share, tally = _share(2, 0.0, metric), Tally([metric])
    for record in (_record(scores=right), _record(scores=down, correct=False)):
        share.add(record)
        tally.add(record)
    assert "cannot be reached" in str(share.exceeded())
    metrics = tally.metrics()
    assert (metrics["accuracy"], metrics["correct"], metrics["errors"]) == (1.0, 1, 1)
    assert (metrics["metrics"][metric]["samples"], metrics["metrics"][metric]["errors"]) == (1, 1)
    assert (metrics["outcomes"]["not_scored"], metrics["unparsed"]) == (1, 0)


def test_an_answer_that_takes_too_long_to_score_is_wrong() -> None:
    scores = {"math": MetricScore(value=0.0, parsed=False, error="took longer than 20 s")}
    share, tally = _share(1, 0.0, "math"), Tally(["math"])
    share.add(_record(scores=scores))
    tally.add(_record(scores=scores))
    assert share.exceeded() is None
    metrics = tally.metrics()
    assert (metrics["accuracy"], metrics["errors"], metrics["metrics"]["math"]["errors"]) == (0.0, 0, 1)


def test_nothing_answered_has_no_accuracy() -> None:
    tally = Tally(["accuracy", "f1"])
    tally.add(_record("no"))
    metrics = tally.metrics()
    assert (metrics["accuracy"], metrics["correct"], metrics["metrics"]["f1"]["mean"]) == (None, None, None)
