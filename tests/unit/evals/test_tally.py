import math
import random

import pytest

from evals.record import SampleRecord
from evals.tally import Tally


def _record(*, correct: bool = True, **changes: object) -> SampleRecord:
    fields: dict[str, object] = {
        "id": "1",
        "index": 0,
        "input": "q",
        "target": "a",
        "prediction": "a",
        "extracted": "a",
        "correct": correct,
        "score": float(correct),
        "scores": {} if changes.get("error") else {"accuracy": {"value": float(correct), "correct": correct}},
        "finish_reason": "stop",
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "latency_s": 0.1,
        "loss": 0.5,
        "reference_logprob": -1.0,
        "reference_tokens": 2,
        "model_digest": "sha256:aa",
        "error": None,
    }
    return SampleRecord.model_validate({**fields, **changes})


def _metrics(*records: SampleRecord) -> dict[str, object]:
    tally = Tally(["accuracy"])
    for record in records:
        tally.add(record)
    return tally.metrics()


def test_counts() -> None:
    metrics = _metrics(
        _record(),
        _record(correct=False, prediction="b", finish_reason="length"),
        _record(correct=False, prediction=" "),
        _record(
            correct=False, prediction="", error="too long", finish_reason=None, prompt_tokens=0, completion_tokens=0
        ),
    )
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    assert (metrics["correct"], metrics["total_samples"], metrics["answered_samples"]) == (1, 4, 3)
    assert metrics["errors"] == 1
    assert (metrics["truncated"], metrics["empty"], metrics["engine_errors"]) == (1, 1, 1)
    assert (metrics["prompt_tokens"], metrics["completion_tokens"]) == (30, 6)
    assert metrics["loss_samples"] == 3
    assert metrics["outcomes"] == {
        "correct": 1, "wrong": 1, "truncated": 1, "unparsed": 0, "engine_error": 1, "not_scored": 0,
    }  # fmt: skip


def test_loss_is_weighted_by_tokens() -> None:
    metrics = _metrics(
        _record(reference_logprob=-1.0, reference_tokens=1), _record(reference_logprob=-5.0, reference_tokens=3)
    )
    assert metrics["avg_loss"] == 1.5
    assert metrics["perplexity"] == pytest.approx(math.exp(1.5))


def test_no_reference_no_loss() -> None:
    metrics = _metrics(_record(reference_logprob=None, reference_tokens=0, loss=None))
    assert (metrics["avg_loss"], metrics["perplexity"], metrics["loss_samples"]) == (None, None, 0)


def test_a_perplexity_beyond_floats_is_null() -> None:
    metrics = _metrics(_record(reference_logprob=-5000.0, reference_tokens=1))
    assert (metrics["avg_loss"], metrics["perplexity"]) == (5000.0, None)


def test_order_changes_nothing_to_the_last_bit() -> None:
    chance = random.Random(3)
    records = [_record(reference_logprob=-chance.expovariate(1) * 10 ** chance.randint(-9, 9)) for _ in range(300)]
    shuffled = chance.sample(records, len(records))
    assert _metrics(*records) == _metrics(*shuffled)
