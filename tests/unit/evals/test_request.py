from typing import Any

import pytest
from pydantic import ValidationError

from evals.request import EvalJobRequest
from stepserve.jobs.errors import Invalid

SCRIPT: dict[str, Any] = {"model_id": "current_checkpoint", "name": "nightly", "dataset_ref": "math_eval.jsonl"}


def test_defaults() -> None:
    request = EvalJobRequest(**SCRIPT)
    assert request.metrics == ["accuracy"]
    assert (request.max_samples, request.per_example_logging) == (1000, True)
    sampling = request.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (256, 0.0, 1.0)
    assert (sampling.seed, sampling.stop) == (None, [])


def test_sampling_is_passed_on() -> None:
    request = EvalJobRequest(**SCRIPT, max_tokens=8, temperature=0.5, top_p=0.9, seed=3, stop=["\n"], n=2)
    assert request.sampling.model_dump(exclude_defaults=True) == {
        "max_tokens": 8,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["\n"],
        "seed": 3,
        "n": 2,
    }


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "n" * 201},
        {"dataset_ref": ""},
        {"metrics": []},
        {"max_samples": 0},
        {"max_samples": -1},
        {"max_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("inf")},
        {"top_p": 0},
        {"top_p": 1.1},
        {"seed": 2**63},
        {"seed": -1},
        {"stop": [""]},
        {"stop": ["a"] * 65},
        {"fewshots": 5},
    ],
)
def test_refused_naming_the_field(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        EvalJobRequest(**{**SCRIPT, **change})
    assert [error["loc"][0] for error in caught.value.errors()] == list(change)


def test_known_metrics_pass() -> None:
    EvalJobRequest(**SCRIPT, metrics=["avg_loss", "accuracy"]).check()


def test_unknown_metric_is_named_with_the_known() -> None:
    with pytest.raises(Invalid, match=r"metrics: unknown metric 'bleurt'; known are accuracy, exact_match, .*judge"):
        EvalJobRequest(**SCRIPT, metrics=["accuracy", "bleurt"]).check()
