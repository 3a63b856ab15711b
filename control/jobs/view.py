"""A job as the API shows it."""

from collections.abc import Sequence
from typing import Any

from control.clock import iso
from control.database.tables import JobAttemptRow, JobRow

# Of a result: what is shown beside it too, since scripts look for it there.
_LIFTED = {"pull": ("local_path", "preferred_quantized")}


def show(job: JobRow, waiting_for: str | None) -> dict[str, Any]:
    """`waiting_for` says why a pending job does not start (control.jobs.waiting)."""
    shown = {
        "id": job.id,
        "job_id": job.id,
        "type": job.type,
        "model_id": job.model_id,
        "status": job.status,
        "priority": job.priority,
        "when_inactive": job.when_inactive,
        "config": job.config,
        "created_at": iso(job.created_at),
        "started_at": iso(job.started_at),
        "completed_at": iso(job.finished_at),
        "finished_at": iso(job.finished_at),
        "progress": show_progress(job),
        "result": job.result,
        "error": job.error,
        "attempt": job.attempt,
        "request_id": job.request_id,
        "created_by": job.created_by,
        "waiting_for": waiting_for,
    }
    shown |= {name: (job.result or {}).get(name) for name in _LIFTED.get(job.type, ())}
    return {name: _text(value) if isinstance(value, bytes) else value for name, value in shown.items()}


def show_progress(job: JobRow) -> dict[str, Any]:
    done, total, rate_per_s = map(_number, (job.progress_done, job.progress_total, job.progress_rate_per_s))
    left = total - done if total is not None and done is not None else None
    running = job.status == "running"
    return {
        "done": done,
        "total": total,
        "rate_per_s": round(rate_per_s, 3) if rate_per_s else None,
        "eta_s": round(left / rate_per_s, 1) if running and rate_per_s and left is not None else None,
    }


def show_attempts(attempts: Sequence[JobAttemptRow]) -> list[dict[str, Any]]:
    """`outcome` is null while the attempt runs."""
    return [
        {
            "attempt": row.attempt,
            "started_at": iso(row.started_at),
            "ended_at": iso(row.ended_at),
            "outcome": row.outcome,
            "error": row.error,
        }
        for row in attempts
    ]


def _number(value: Any) -> Any:
    """SQLite keeps words in a column of numbers, where somebody writes them by hand."""
    return value if isinstance(value, int | float) else None


def _text(value: bytes) -> str:
    return value.decode(errors="replace")
