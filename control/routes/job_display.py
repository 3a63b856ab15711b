"""A job as its routes show it: with its attempts, what it waits for, and its events."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from control.activation.activator import Activator
from control.clock import utc_now
from control.database.tables import JobRow
from control.errors import ServiceError
from control.jobs.queue import JobQueue
from control.jobs.runner import JobRunner
from control.jobs.states import LIVE
from control.jobs.view import show, show_attempts, show_progress
from control.jobs.waiting import EngineView, waiting_for
from control.models.activation_log import ActivationLog

LOOK_AGAIN_S = 1.0
KEEP_ALIVE_S = 10.0


class JobDisplay:
    def __init__(self, queue: JobQueue, runner: JobRunner, history: ActivationLog, activator: Activator) -> None:
        self._queue = queue
        self._runner = runner
        self._history = history
        self._activator = activator

    async def one(self, job: JobRow) -> dict[str, Any]:
        """A job with its attempts."""
        shown = show(job, await self._waits_for(job))
        return shown | {"attempts": show_attempts(await self._queue.attempts(job.id))}

    async def many(self, jobs: Sequence[JobRow]) -> list[dict[str, Any]]:
        engine, runner, now = await self._engine(), self._runner.view, utc_now()
        return [show(job, waiting_for(job, runner, engine, now)) for job in jobs]

    async def events(self, job: JobRow) -> AsyncIterator[str]:
        """Ends after the state in which the job is over. Changes by other processes are seen within LOOK_AGAIN_S."""
        seen_state: object = None
        seen_progress: object = None
        quiet_s = 0.0
        with self._queue.changes.watch(job.id) as changed:
            waits_for = await self._waits_for(job)
            while True:
                state, progress = (job.status, job.attempt, waits_for), (job.progress_done, job.progress_total)
                if state != seen_state:
                    quiet_s = 0.0
                    yield _event("state", await self.one(job))
                elif progress != seen_progress:
                    quiet_s = 0.0
                    yield _event("progress", {"job_id": job.id, "status": job.status, "progress": show_progress(job)})
                elif quiet_s >= KEEP_ALIVE_S:
                    quiet_s = 0.0
                    yield ": still here\n\n"
                seen_state, seen_progress = state, progress
                if job.status not in LIVE:
                    return
                try:
                    async with asyncio.timeout(LOOK_AGAIN_S):
                        await changed.wait()
                except TimeoutError:
                    quiet_s += LOOK_AGAIN_S
                changed.clear()
                try:
                    job = await self._queue.get(job.id)
                    waits_for = await self._waits_for(job)
                except ServiceError as error:  # the answer has begun, so the failure has to be said in it
                    yield _event("error", {"detail": str(error)})
                    return

    async def _waits_for(self, job: JobRow) -> str | None:
        if job.status != "pending":
            return None
        return waiting_for(job, self._runner.view, await self._engine(), utc_now())

    async def _engine(self) -> EngineView:
        active = await self._history.active()
        return EngineView(active.id if active else None, self._activator.target, await self._queue.borrowed_by())


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"
