"""/jobs: every job, whatever its kind."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from control.access.principal import check_may_switch
from control.access.view import Viewer
from control.errors import Invalid
from control.jobs.queue import JobQueue
from control.jobs.runner import JobRunner
from control.jobs.states import Status
from control.promotion.kind import may_switch
from control.routes.job_display import JobDisplay
from control.services import Given

router = APIRouter()

_EVENT_STREAM = "text/event-stream"
_UNBUFFERED = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@router.get("/jobs")
async def list_jobs(
    queue: Given[JobQueue],
    runner: Given[JobRunner],
    display: Given[JobDisplay],
    view: Viewer,
    job_type: Annotated[str | None, Query(alias="type")] = None,
    status: Status | None = None,
    text: Annotated[str, Query(max_length=1000)] = "",
    offset: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """Newest first. `text`: in the id, or in that of the model; `total`: how many there are in all."""
    _check_type(job_type, runner)
    jobs, total = await queue.page(job_type, status, text, offset, limit, view=view)
    return {"jobs": await display.many(jobs), "total": total}


@router.get("/jobs/stats")
async def stats(
    queue: Given[JobQueue],
    runner: Given[JobRunner],
    view: Viewer,
    job_type: Annotated[str | None, Query(alias="type")] = None,
) -> dict[str, int]:
    _check_type(job_type, runner)
    return await queue.stats(view, job_type)


@router.get("/jobs/{job_id}")
async def get_job(job_id: str, queue: Given[JobQueue], display: Given[JobDisplay], view: Viewer) -> dict[str, Any]:
    return await display.one(await queue.get(job_id, view=view))


@router.get("/jobs/{job_id}/events")
async def events(job_id: str, queue: Given[JobQueue], display: Given[JobDisplay], view: Viewer) -> StreamingResponse:
    """Server-sent events: `state` with the whole job at first and at each change of it, `progress` between.

    What a pending job waits for is part of its state.
    """
    job = await queue.get(job_id, view=view)
    return StreamingResponse(display.events(job), media_type=_EVENT_STREAM, headers=_UNBUFFERED)


@router.post("/jobs/{job_id}/cancel")
async def cancel(job_id: str, queue: Given[JobQueue], runner: Given[JobRunner], view: Viewer) -> dict[str, Any]:
    await queue.get(job_id, view=view)
    job = await queue.cancel(job_id)
    runner.interrupt(job_id)
    return {"job_id": job.id, "status": job.status}


@router.post("/jobs/{job_id}/retry")
async def retry(
    job_id: str, http: Request, queue: Given[JobQueue], runner: Given[JobRunner], view: Viewer
) -> dict[str, Any]:
    check_may_switch(http, switches=may_switch(await queue.get(job_id, view=view)))
    job = await queue.retry(job_id)
    runner.wake()
    return {"job_id": job.id, "status": job.status}


def _check_type(job_type: str | None, runner: JobRunner) -> None:
    """Raises Invalid."""
    if job_type is not None and job_type not in runner.types:
        raise Invalid(f"type: there is no {job_type!r}; known are {', '.join(runner.types)}")
