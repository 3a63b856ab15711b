"""/jobs: every job, whatever its kind."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from control.jobs.states import Status
from control.jobs.view import show
from control.services import Wired

router = APIRouter()


@router.get("/jobs")
async def list_jobs(
    services: Wired,
    job_type: Annotated[str | None, Query(alias="type")] = None,
    status: Status | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    jobs = await services.queue.newest_first(job_type, status, limit)
    active = await services.history.active()
    return {"jobs": [show(job, active.id if active else None) for job in jobs]}


@router.get("/jobs/stats")
async def stats(services: Wired) -> dict[str, int]:
    return await services.queue.stats()


@router.get("/jobs/{job_id}")
async def get_job(job_id: str, services: Wired) -> dict[str, Any]:
    active = await services.history.active()
    return show(await services.queue.get(job_id), active.id if active else None)


@router.post("/jobs/{job_id}/cancel")
async def cancel(job_id: str, services: Wired) -> dict[str, Any]:
    job = await services.queue.cancel(job_id)
    services.worker.interrupt(job_id)
    return {"job_id": job.id, "status": job.status}


@router.post("/jobs/{job_id}/retry")
async def retry(job_id: str, services: Wired) -> dict[str, Any]:
    job = await services.queue.retry(job_id)
    services.worker.wake()
    return {"job_id": job.id, "status": job.status}
