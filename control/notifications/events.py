"""What there is to tell: names of events, and their content made of rows. Pure."""

from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from control.clock import iso
from control.database.tables import ActivationRow, JobRow
from stepserve.contract import EngineDeath

KNOWN = (
    "activation.done", "activation.failed", "engine.died", "eval.accuracy_fell", "job.cancelled", "job.done",
    "job.failed", "promotion.promoted", "promotion.refused", "promotion.rolled_back", "promotion.undecided", "test",
)  # fmt: skip
"""`eval.accuracy_fell`: an eval's accuracy is significantly below that of the eval before it in its series."""


@dataclass(frozen=True, slots=True)
class Event:
    """`id` is unique: a receiver that has seen it has seen this event."""

    id: str
    name: str
    at: datetime
    data: dict[str, Any]

    def content(self) -> dict[str, Any]:
        return {"id": self.id, "event": self.name, "at": iso(self.at), "data": self.data}


def matches(patterns: list[str], name: str) -> bool:
    return name == "test" or any(fnmatchcase(name, pattern) for pattern in patterns)


def of_job(job: JobRow, step: int | None) -> Event:
    """`step`: the training step of its model."""
    at = job.finished_at or job.created_at
    data = {
        "job_id": job.id,
        "type": job.type,
        "model_id": job.model_id,
        "status": job.status,
        "step": step,
        "dataset": (job.config.get("dataset") or {}).get("name"),
        "name": job.config.get("name"),
        "attempt": job.attempt,
        "error": job.error,
        "result": job.result,
        "created_by": job.created_by,
        "created_at": iso(job.created_at),
        "finished_at": iso(job.finished_at),
    }
    return Event(f"job.{job.id}.{job.attempt}.{job.status}", f"job.{job.status}", at, data)


def of_activation(row: ActivationRow) -> Event:
    data = {
        "activation_id": row.id,
        "model_id": row.model_id,
        "digest": row.digest,
        "previous": row.previous,
        "cause": row.cause,
        "method": row.method,
        "paused_ms": row.paused_ms,
        "total_ms": row.total_ms,
        "proof": row.proof,
        "error": row.error,
        "rolled_back_to": row.rolled_back_to,
    }
    return Event(f"activation.{row.id}", f"activation.{row.status}", row.finished_at or row.started_at, data)


def of_death(boot_id: str, death: EngineDeath) -> Event:
    data = {"model_id": death.model_id, "active": death.active}
    return Event(f"engine.{boot_id}.{death.number}", "engine.died", datetime.fromisoformat(death.at), data)


def of_fall(job: JobRow, before: JobRow, comparison: dict[str, Any]) -> Event:
    """`comparison` is that of GET /eval/compare, the one before being `a`."""
    data = {"job_id": job.id, "model_id": job.model_id, "before": before.id, "comparison": comparison}
    return Event(f"eval.{job.id}.{job.attempt}.fell", "eval.accuracy_fell", job.finished_at or job.created_at, data)


def of_decision(job: JobRow, step: int | None) -> Event | None:
    """What a promotion that is done has decided, and why; None: the job is no such one."""
    result = job.result
    if job.type != "promotion" or job.status != "done" or result is None or not isinstance(result.get("reasons"), list):
        return None
    decision = result.get("decision")
    named = ("reasons", "per_metric", "guards", "candidate", "baseline", "activation")
    data = {"job_id": job.id, "step": step, "decision": decision, **{name: result.get(name) for name in named}}
    name = f"promotion.{decision}"
    return Event(f"promotion.{job.id}", name, job.finished_at or job.created_at, data) if name in KNOWN else None


def sentence(event: Event) -> str:
    """One line that a person reads in a chat."""
    data = event.data
    match event.name:
        case "job.done" | "job.failed" | "job.cancelled":
            accuracy = (data["result"] or {}).get("accuracy") if isinstance(data["result"], dict) else None
            said = f"{data['type']} job {data['job_id']} on {data['model_id']} is {data['status']}"
            if isinstance(accuracy, int | float):
                said += f": accuracy {accuracy:.4g}"
            said += f": {data['error']}" if data["error"] else ""
        case "activation.done":
            paused = "" if data["paused_ms"] is None else f", requests were paused for {data['paused_ms']:.0f} ms"
            said = f"{data['model_id']} is active ({data['method'] or 'unchanged'}{paused})"
        case "activation.failed":
            kept = f"; {data['rolled_back_to']} serves" if data["rolled_back_to"] else ""
            said = f"{data['model_id']} was not activated: {data['error']}{kept}"
        case "engine.died":
            said = f"the engine of {data['model_id']} died" + (" and is being restarted" if data["active"] else "")
        case "promotion.promoted" | "promotion.refused" | "promotion.rolled_back" | "promotion.undecided":
            decided = str(data["decision"]).replace("_", " ")
            said = f"the promotion of {data['candidate']['id']} is {decided}: {'; '.join(data['reasons'])}"
        case "eval.accuracy_fell":
            found = data["comparison"]
            said = (
                f"accuracy of {data['model_id']} fell by {-found['difference']:.4g} against {data['before']}"
                f" (p = {found['p']:.2g})"
            )
        case _:
            said = "a test notification from Stepserve"
    return said
