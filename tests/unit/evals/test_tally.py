import math
import random

import numpy as np
import pytest
import statsmodels.api as sm

from evals.intervals import wilson_95
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


def test_without_an_answer_there_is_no_mean() -> None:
    metrics = _metrics(_record(correct=False, error="the engine died"))
    assert (metrics["accuracy"], metrics["accuracy_ci95"], metrics["engine_errors"]) == (None, None, 1)


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


def _of_pages(pages: int = 12, each: int = 9) -> list[SampleRecord]:
    """Questions about pages: those of a page go together, and their losses do too."""
    chance = random.Random(11)
    records = []
    for page in range(pages):
        knows, nats = chance.random(), chance.uniform(0.2, 2.0)
        for number in range(each):
            tokens = chance.randint(1, 9)
            correct = chance.random() < knows
            scores = {
                "accuracy": {"value": float(correct), "correct": correct},
                "f1": {"value": knows * chance.random(), "correct": None},
            }
            loss = {"reference_logprob": -nats * tokens * chance.uniform(0.5, 1.5), "reference_tokens": tokens}
            records.append(
                _record(correct=correct, id=f"{page}-{number}", scores=scores, cluster=f"page {page}", **loss)
            )
    return records


def test_errors_and_intervals_of_clustered_questions_are_statsmodels() -> None:
    records = _of_pages()
    tally = Tally(["accuracy", "f1", "avg_loss", "perplexity"])
    for record in records:
        tally.add(record)
    told = tally.metrics()
    groups = np.array([record.cluster for record in records])

    def fitted(values: list[float], weights: list[float] | None = None) -> tuple[float, float, list[float]]:
        found = sm.WLS(values, np.ones(len(values)), weights=1.0 if weights is None else weights).fit(
            cov_type="cluster", cov_kwds={"groups": np.unique(groups, return_inverse=True)[1]}, use_t=True
        )
        return float(found.params[0]), float(found.bse[0]), [float(end) for end in found.conf_int()[0]]

    tokens = [float(record.reference_tokens) for record in records]
    losses = [-(record.reference_logprob or 0.0) / record.reference_tokens for record in records]
    for name, expected in (
        ("accuracy", fitted([record.scores["accuracy"].value for record in records])),
        ("f1", fitted([record.scores["f1"].value for record in records])),
        ("avg_loss", fitted(losses, tokens)),
    ):
        found = told["metrics"][name]
        assert (found["samples"], found["clusters"]) == (108, 12)
        for ours, theirs in zip((found["mean"], found["stderr"], found["ci95"]), expected, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-9, rel=1e-9), name
    assert (told["accuracy_stderr"], told["accuracy_ci95"], told["clusters"]) == (
        told["metrics"]["accuracy"]["stderr"], told["metrics"]["accuracy"]["ci95"], 12,
    )  # fmt: skip
    alone = _metrics(*(record.model_copy(update={"cluster": None}) for record in records))
    assert told["accuracy_stderr"] > 1.3 * float(str(alone["accuracy_stderr"])), "questions of a page say less"
    assert "clusters" not in alone


def test_clustered_numbers_do_not_depend_on_the_order() -> None:
    records = _of_pages()
    assert _metrics(*records) == _metrics(*random.Random(5).sample(records, len(records)))


def test_clusters_that_are_all_alike_are_not_taken_for_certainty() -> None:
    right = [_record(id=str(number), cluster=f"page {number // 10}") for number in range(40)]
    told = _metrics(*right)
    assert told["accuracy_stderr"] == 0
    assert told["accuracy_ci95"] == list(wilson_95(4, 4)), "four pages, not forty questions"
    halves = [_record(id=str(number), correct=number % 2 == 0, cluster=f"page {number // 10}") for number in range(40)]
    assert _metrics(*halves)["accuracy_ci95"] == list(wilson_95(2, 4))
    one = _metrics(*(_record(id=str(number), cluster="page") for number in range(40)))
    assert (one["accuracy"], one["accuracy_stderr"], one["accuracy_ci95"]) == (1, None, None)
