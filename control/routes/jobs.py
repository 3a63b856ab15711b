"""/jobs: every job, whatever its kind."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from control.access.view import Viewer
from control.clock import utc_now
from control.database.tables import JobRow
from control.errors import Invalid, ServiceError
from control.jobs.states import LIVE, Status
from control.jobs.view import show, show_attempts, show_progress
from control.jobs.waiting import EngineView, waiting_for
from control.services import Services, Wired

router = APIRouter()

LOOK_AGAIN_S = 1.0
KEEP_ALIVE_S = 10.0
_EVENT_STREAM = "text/event-stream"
_UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def show_one(job: JobRow, services: Services) -> dict[str, Any]:
    """A job with its attempts."""
    shown = show(job, await _waits_for(job, services))
    return shown | {"attempts": show_attempts(await services.queue.attempts(job.id))}


@router.get("/jobs")
async def list_jobs(
    services: Wired,
    view: Viewer,
    job_type: Annotated[str | None, Query(alias="type")] = None,
    status: Status | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    if job_type is not None and job_type not in services.runner.types:
        raise Invalid(f"type: there is no {job_type!r}; known are {', '.join(services.runner.types)}")
    jobs = await services.queue.newest_first(job_type, status, limit, view=view)
    engine, runner, now = await _engine(services), services.runner.view, utc_now()
    return {"jobs": [show(job, waiting_for(job, runner, engine, now)) for job in jobs]}


async def _waits_for(job: JobRow, services: Services) -> str | None:
    if job.status != "pending":
        return None
    return waiting_for(job, services.runner.view, await _engine(services), utc_now())


async def _engine(services: Services) -> EngineView:
    active = await services.history.active()
    return EngineView(active.id if active else None, services.activator.target, await services.queue.borrowed_by())


@router.get("/jobs/stats")
async def stats(services: Wired, view: Viewer) -> dict[str, int]:
    return await services.queue.stats(view)


@router.get("/jobs/{job_id}")
async def get_job(job_id: str, services: Wired, view: Viewer) -> dict[str, Any]:
    return await show_one(await services.queue.get(job_id, view=view), services)


@router.get("/jobs/{job_id}/events")
async def events(job_id: str, services: Wired, view: Viewer) -> StreamingResponse:
    """Server-sent events: `state` with the whole job at first and at each change of it, `progress` between.

    What a pending job waits for is part of its state.
    """
    job = await services.queue.get(job_id, view=view)
    return StreamingResponse(_events(job, services), media_type=_EVENT_STREAM, headers=_UNBUFFERED)


async def _events(job: JobRow, services: Services) -> AsyncIterator[str]:
    """Ends after the state in which the job is over. Changes by other processes are seen within LOOK_AGAIN_S."""
    seen_state: object = None
    seen_progress: object = None
    quiet_s = 0.0
    with services.queue.changes.watch(job.id) as changed:
        waits_for = await _waits_for(job, services)
        while True:
            state, progress = (job.status, job.attempt, waits_for), (job.progress_done, job.progress_total)
            if state != seen_state:
                quiet_s = 0.0
                yield _event("state", await show_one(job, services))
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
                job = await services.queue.get(job.id)
                waits_for = await _waits_for(job, services)
            except ServiceError as error:  # the answer has begun, so the failure has to be said in it
                yield _event("error", {"detail": str(error)})
                return


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"


@router.post("/jobs/{job_id}/cancel")
async def cancel(job_id: str, services: Wired, view: Viewer) -> dict[str, Any]:
    await services.queue.get(job_id, view=view)
    job = await services.queue.cancel(job_id)
    services.runner.interrupt(job_id)
    return {"job_id": job.id, "status": job.status}


@router.post("/jobs/{job_id}/retry")
async def retry(job_id: str, services: Wired, view: Viewer) -> dict[str, Any]:
    await services.queue.get(job_id, view=view)
    job = await services.queue.retry(job_id)
    services.runner.wake()
    return {"job_id": job.id, "status": job.status}
