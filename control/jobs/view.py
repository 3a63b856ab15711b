"""A job as the API shows it."""

from typing import Any

from control.clock import iso
from control.tables import JobRow


def show(job: JobRow, active_id: str | None) -> dict[str, Any]:
    """`waiting_for` says why a pending job does not start; `active_id` is the active model's."""
    waiting = job.status == "pending" and job.model_id != active_id
    return {
        "id": job.id,
        "job_id": job.id,
        "type": job.type,
        "model_id": job.model_id,
        "status": job.status,
        "config": job.config,
        "created_at": iso(job.created_at),
        "started_at": iso(job.started_at),
        "completed_at": iso(job.finished_at),
        "finished_at": iso(job.finished_at),
        "progress": _progress(job),
        "result": job.result,
        "error": job.error,
        "attempt": job.attempt,
        "waiting_for": f"model {job.model_id} to become active" if waiting else None,
    }


def _progress(job: JobRow) -> dict[str, Any]:
    rate_per_s = job.progress_rate_per_s
    left = job.progress_total - job.progress_done if job.progress_total is not None else None
    running = job.status == "running"
    return {
        "done": job.progress_done,
        "total": job.progress_total,
        "rate_per_s": round(rate_per_s, 3) if rate_per_s else None,
        "eta_s": round(left / rate_per_s, 1) if running and rate_per_s and left is not None else None,
    }
