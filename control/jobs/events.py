"""News of jobs: the jobs log, and waking those in this process who wait for a change."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from control.database.tables import JobRow
from control.jobs.ending import Cancelled, Done, Ending, Failed, Lost, Requeued

log = logging.getLogger("stepserve.jobs")


def note(event: str, job: JobRow, **facts: object) -> None:
    """One structured line of the jobs log. event: created, started, released, done, failed, cancelled, retried."""
    line = {
        "event": event, "job_id": job.id, "type": job.type, "model_id": job.model_id, "attempt": job.attempt, **facts
    }  # fmt: skip
    if job.request_id is not None:
        line["request_id"] = job.request_id
    log.info(line)


def note_end(job: JobRow, ending: Ending) -> None:
    """The line that an ending leaves in the jobs log."""
    match ending:
        case Done():
            note("done", job)
        case Failed(reason):
            note("failed", job, error=reason)
        case Cancelled():
            note("cancelled", job)
        case Requeued(reason) | Lost(reason):
            note("released", job, reason=reason)


class Changes:
    """`tell` wakes every watcher of a job. Changes by other processes are not told: watchers also poll."""

    def __init__(self) -> None:
        self._watchers: dict[str, set[asyncio.Event]] = {}

    @contextmanager
    def watch(self, job_id: str) -> Iterator[asyncio.Event]:
        """The event is set at each change; the watcher clears it before looking."""
        event = asyncio.Event()
        self._watchers.setdefault(job_id, set()).add(event)
        try:
            yield event
        finally:
            watchers = self._watchers[job_id]
            watchers.discard(event)
            if not watchers:
                del self._watchers[job_id]

    def tell(self, job_id: str) -> None:
        for event in self._watchers.get(job_id, ()):
            event.set()
