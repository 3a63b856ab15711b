"""A run of training: the checkpoints that a trainer registered together, and what is known of each. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepserve.client.results import EvalPoint, Job, Model
from ui.format import number, percent
from ui.harmless import harmless
from ui.promotion_words import Asked
from ui.step_curve import Measure


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`point`: its newest eval by the measure; `decision` of its newest promotion, and why."""

    model: Model
    point: Mapping[str, Any] | None = None
    decision: str | None = None
    reasons: Sequence[str] = ()

    @property
    def eval_id(self) -> str | None:
        return None if self.point is None else str(self.point["job_id"])


def runs_of(models: Iterable[Model]) -> dict[str, list[Model]]:
    """Checkpoints with a step, by their first tag; those without one by who registered them. The newest run first."""
    found: dict[str, list[Model]] = {}
    for model in models:
        if model.step is not None:
            found.setdefault(model.tags[0] if model.tags else f"from {model.source}", []).append(model)
    for checkpoints in found.values():
        checkpoints.sort(key=lambda model: -(model.step or 0))
    return found


def checkpoints_of(
    models: Iterable[Model], history: Iterable[EvalPoint], promotions: Iterable[Job], measure: Measure
) -> list[Checkpoint]:
    """In the order of `models`. `history` and `promotions`: the newest of a content counts."""
    points: dict[tuple[str, str], dict[str, Any]] = {}
    for point in sorted(history, key=lambda point: str(point.created_at), reverse=True):
        told = point.as_json()
        if told["dataset"] == measure[1] and told["metrics"].get(measure[0]) is not None:
            points.setdefault((point.model_id, told["model_digest"]), told)
    decided: dict[tuple[str, str], Job] = {}
    for job in promotions:
        asked = Asked.of(job.config)
        if asked is not None and (job.result or {}).get("decision"):
            decided.setdefault((asked.candidate, asked.candidate_digest), job)
    return [
        Checkpoint(model, points.get((model.id, model.digest)), *_decision(decided.get((model.id, model.digest))))
        for model in models
    ]


def label(one: Checkpoint, measure: Measure) -> str:
    """A line of Markdown: step, name, score with its interval, loss, energy, and what became of it."""
    parts = [f"**step {one.model.step:,}**", harmless(one.model.id), *_measured(one.point, measure)]
    if one.model.is_active:
        parts.append("**serves**")
    if one.decision is not None:
        parts.append(one.decision)
    return " · ".join(parts)


def _measured(point: Mapping[str, Any] | None, measure: Measure) -> list[str]:
    if point is None:
        return ["not measured"]
    low_high = point.get("metrics_ci95", {}).get(measure[0])
    interval = "" if low_high is None else f" ({100 * low_high[0]:.1f} to {100 * low_high[1]:.1f})"
    said = [f"{percent(point['metrics'][measure[0]])}{interval}"]
    if point.get("avg_loss") is not None:
        said.append(f"loss {number(point['avg_loss'])}")
    if point.get("energy_j"):
        said.append(f"{number(point['energy_j'])} J")
    return said


def _decision(job: Job | None) -> tuple[str | None, Sequence[str]]:
    if job is None:
        return None, ()
    result = job.result or {}
    return str(result["decision"]).replace("_", " "), tuple(map(str, result.get("reasons") or ()))
