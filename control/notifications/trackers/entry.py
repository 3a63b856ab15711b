"""What there is to log of an event: numbers at a training step. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

EVENTS = ("job.done", "promotion.*")
"""Those that have numbers: ended evals, and decisions."""

_DECISIONS = {"promoted": 1.0, "undecided": 0.0, "refused": -1.0, "rolled_back": -1.0}
_SUFFIXES = (".gz", ".jsonl")


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a webhook's entries go: its options, a folder of its own, and the hosts that may be on the own network."""

    options: Mapping[str, str]
    folder: Path
    hosts: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Entry:
    """`run` is the run's name: that of the webhook's options, of a model without a step one for itself.

    `metrics` by name, all finite; `at_s` is in seconds since 1970; `event_id` is the same each time the entry comes.
    """

    run: str
    step: int
    metrics: Mapping[str, float]
    at_s: float
    event_id: str
    model_id: str


def entry_of(content: Mapping[str, Any], run: str) -> Entry | None:
    """Of an event's content; None: it has no numbers to draw."""
    data, event = content["data"], str(content["event"])
    metrics = _metrics(event, data)
    if not metrics:
        return None
    model = data.get("model_id") or (data.get("candidate") or {}).get("id") or ""
    step = data.get("step")
    named = run if step is not None or event == "test" else f"{run}/{model}"
    at_s = datetime.fromisoformat(content["at"]).timestamp()
    return Entry(named, step or 0, metrics, at_s, str(content["id"]), str(model))


def _metrics(event: str, data: Mapping[str, Any]) -> dict[str, float]:
    if event == "test":
        return {"stepserve/test": 1.0}
    found: dict[str, Any] = {}
    if event == "job.done" and data.get("type") == "eval":
        result = data.get("result") or {}
        dataset = _stem(str(data.get("dataset") or data.get("name") or "eval"))
        for name, metric in (result.get("metrics") or {}).items():
            found[f"{dataset}/{name}"] = metric.get("mean")
        found |= {f"{dataset}/{name}": result.get(name) for name in ("avg_loss", "perplexity")}
    elif event.startswith("promotion."):
        found["promotion/decision"] = _DECISIONS.get(str(data.get("decision")))
        for metric in data.get("per_metric") or []:
            found[f"promotion/{_stem(metric['dataset'])}/{metric['metric']}"] = metric["difference"]
    return {name: float(value) for name, value in found.items() if _is_number(value)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _stem(dataset: str) -> str:
    for suffix in _SUFFIXES:
        dataset = dataset.removesuffix(suffix)
    return dataset
