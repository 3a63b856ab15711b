"""The jobs log: one structured event a line; the handler makes JSON of it."""

import logging

from control.database.tables import JobRow

log = logging.getLogger("stepserve.jobs")


def note(event: str, job: JobRow, **facts: object) -> None:
    """event: created, started, released, done, failed, cancelled, retried."""
    line = {
        "event": event, "job_id": job.id, "type": job.type, "model_id": job.model_id, "attempt": job.attempt, **facts
    }  # fmt: skip
    if job.request_id is not None:
        line["request_id"] = job.request_id
    log.info(line)
