"""/data_gen/jobs: what a data generation job shows beside any other job, and its files."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse

from control.access.view import Viewer
from control.errors import NotFound
from control.jobs.queue import JobQueue
from control.routes.job_display import JobDisplay
from control.routes.shards import download
from control.services import Given
from control.shards.inbox import ShardInbox
from control.shards.view import relative_name
from stepserve.jobs.datagen_ports import DataGenReports, RejectionQuery
from stepserve.paths import Layout

router = APIRouter()

JOB_TYPE = "data_gen"
_REPORT = "report.json"
_FILES = {
    "manifest.json": "application/json",
    "README.md": "text/markdown",
    "report.json": "application/json",
    "attempts.jsonl": "application/jsonl",
}


@router.get("/data_gen/jobs/{job_id}")
async def get_job(
    job_id: str,
    queue: Given[JobQueue],
    display: Given[JobDisplay],
    inbox: Given[ShardInbox],
    layout: Given[Layout],
    view: Viewer,
) -> dict[str, Any]:
    """`shards`: the finished ones, relative to train_shards_out."""
    shown = await display.one(await queue.get(job_id, JOB_TYPE, view=view))
    rows = await inbox.of_job(job_id)
    return shown | {"shards": [relative_name(row, layout) for row in rows]}


@router.get("/data_gen/jobs/{job_id}/shards/{name:path}")
async def get_shard(
    job_id: str,
    name: str,
    queue: Given[JobQueue],
    inbox: Given[ShardInbox],
    layout: Given[Layout],
    view: Viewer,
) -> FileResponse:
    """By its name, or as `shards` lists it."""
    await queue.get(job_id, JOB_TYPE, view=view)
    for row in await inbox.of_job(job_id):
        if name in {row.name, relative_name(row, layout)}:
            return await download(row, layout)
    raise NotFound(f"{job_id} has no shard {name!r}")


@router.get("/data_gen/jobs/{job_id}/report")
async def get_report(job_id: str, queue: Given[JobQueue], layout: Given[Layout], view: Viewer) -> FileResponse:
    """Of the examples, the whole job's and each shard's; there once the job has ended, well or not."""
    await queue.get(job_id, JOB_TYPE, view=view)
    path = layout.runs / JOB_TYPE / job_id / _REPORT
    if not await asyncio.to_thread(path.is_file):
        raise NotFound(f"{job_id} has no report yet: it is written when the examples are all made")
    return FileResponse(path, media_type=_FILES[_REPORT])


@router.get("/data_gen/jobs/{job_id}/files/{name}")
async def get_file(job_id: str, name: str, queue: Given[JobQueue], layout: Given[Layout], view: Viewer) -> FileResponse:
    """manifest.json, README.md (the dataset card), report.json and attempts.jsonl of a run."""
    await queue.get(job_id, JOB_TYPE, view=view)
    path = layout.runs / JOB_TYPE / job_id / Path(name).name
    if name not in _FILES or not await asyncio.to_thread(path.is_file):
        raise NotFound(f"{job_id} has no file {name!r} (there can be: {', '.join(_FILES)})")
    return FileResponse(path, media_type=_FILES[name])


def reports_router(reports: DataGenReports) -> APIRouter:
    """What only the kind itself can read."""
    routes = APIRouter()

    @routes.get("/data_gen/jobs/{job_id}/rejected")
    async def get_rejected(
        job_id: str,
        queue: Given[JobQueue],
        layout: Given[Layout],
        view: Viewer,
        reason: Annotated[str | None, Query(max_length=200)] = None,
        after: Annotated[str | None, Query(max_length=100)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> dict[str, Any]:
        """Why things did not become examples, in the order of the log. `after`: the `next` of the page before; a page
        may hold fewer than `limit`, even none, and still have a `next`."""
        await queue.get(job_id, JOB_TYPE, view=view)
        wanted = RejectionQuery(reason, after, limit)
        return {"job_id": job_id} | await reports.rejected(layout.runs / JOB_TYPE / job_id, wanted)

    return routes
