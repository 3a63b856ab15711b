"""What a tracker is told of an event: finite numbers at a training step, and nothing else."""

from typing import Any

import pytest

from control.notifications.trackers.entry import Entry, entry_of

METRICS = {"accuracy": {"mean": 0.5}, "pass@1": {"mean": 0.25}, "odd": {"mean": None}}
EVAL = {
    "type": "eval", "model_id": "step-300", "step": 300, "dataset": "math/hard.jsonl.gz", "name": "nightly",
    "result": {"metrics": METRICS, "avg_loss": 1.5, "perplexity": float("inf")},
}  # fmt: skip
DECISION = {
    "candidate": {"id": "new"}, "step": 500, "decision": "refused",
    "per_metric": [
        {"dataset": "math.jsonl", "metric": "accuracy", "difference": -0.25},
        {"dataset": "mmlu.jsonl", "metric": "accuracy", "difference": None},
    ],
}  # fmt: skip


def entry(event: str, data: dict[str, Any]) -> Entry | None:
    return entry_of({"id": "e1", "event": event, "at": "2026-01-01T00:00:00+00:00", "data": data}, "run")


@pytest.mark.parametrize(
    ("event", "data", "run", "step", "metrics"),
    [
        (
            "job.done",
            EVAL,
            "run",
            300,
            {"math/hard/accuracy": 0.5, "math/hard/pass@1": 0.25, "math/hard/avg_loss": 1.5},
        ),
        ("job.done", {**EVAL, "dataset": None, "result": {"avg_loss": 2}}, "run", 300, {"nightly/avg_loss": 2.0}),
        ("job.done", {**EVAL, "step": None, "result": {"avg_loss": 2}}, "run/step-300", 0, {"math/hard/avg_loss": 2.0}),
        ("job.done", {**EVAL, "step": 0, "result": {"avg_loss": 2}}, "run", 0, {"math/hard/avg_loss": 2.0}),
        ("promotion.refused", DECISION, "run", 500, {"promotion/decision": -1.0, "promotion/math/accuracy": -0.25}),
        ("test", {}, "run", 0, {"stepserve/test": 1.0}),
    ],
)
def test_numbers_at_a_step(event: str, data: dict[str, Any], run: str, step: int, metrics: dict[str, float]) -> None:
    found = entry(event, data)
    assert found is not None
    assert (found.run, found.step, found.metrics) == (run, step, metrics)
    assert (found.at_s, found.event_id) == (1767225600.0, "e1")


@pytest.mark.parametrize(
    ("event", "data"),
    [
        ("job.done", {**EVAL, "type": "data_gen"}),
        ("job.done", {**EVAL, "result": None}),
        ("job.done", {**EVAL, "result": {"metrics": {"a": {"mean": float("nan")}}}}),
        ("job.failed", EVAL),
        ("engine.died", {"model_id": "a"}),
    ],
)
def test_events_without_numbers_are_no_entries(event: str, data: dict[str, Any]) -> None:
    assert entry(event, data) is None
