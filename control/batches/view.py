"""A job of the batch kind as OpenAI shows batches."""

from datetime import datetime
from typing import Any

from control.batches.files import FileStore
from control.database.tables import JobRow


def show_batch(job: JobRow, files: FileStore) -> dict[str, Any]:
    """Blocks. Output and error file are named once the batch is over, of a cancelled one too."""
    over = job.status in {"done", "failed", "cancelled"}
    status = _status(job)
    ended_at = _seconds(job.finished_at)
    result = job.result or {}
    return {
        "id": job.id,
        "object": "batch",
        "endpoint": job.config["endpoint"],
        "model": job.model_id,
        "errors": _errors(job.error) if job.status == "failed" else None,
        "input_file_id": job.config["input_file_id"],
        "completion_window": job.config["completion_window"],
        "status": status,
        "output_file_id": files.output_id(job.id, "output") if over else None,
        "error_file_id": files.output_id(job.id, "errors") if over else None,
        "created_at": _seconds(job.created_at),
        "in_progress_at": _seconds(job.started_at),
        "expires_at": None,
        "finalizing_at": ended_at if status == "completed" else None,
        "completed_at": ended_at if status == "completed" else None,
        "failed_at": ended_at if status == "failed" else None,
        "expired_at": None,
        "cancelling_at": ended_at if status == "cancelled" else None,
        "cancelled_at": ended_at if status == "cancelled" else None,
        "request_counts": {
            "total": job.config["requests"],
            "completed": result.get("completed", job.progress_done),
            "failed": result.get("failed", 0),
        },
        "metadata": job.config.get("metadata"),
    }


def _status(job: JobRow) -> str:
    names = {"running": "in_progress", "done": "completed", "failed": "failed", "cancelled": "cancelled"}
    return names.get(job.status) or ("validating" if job.attempt == 0 else "in_progress")


def _errors(reason: str | None) -> dict[str, Any]:
    entry = {"code": "batch_failed", "message": reason or "the batch failed", "param": None, "line": None}
    return {"object": "list", "data": [entry]}


def _seconds(moment: datetime | None) -> int | None:
    return int(moment.timestamp()) if moment else None
