"""/data_gen/jobs: what a data generation job shows beside any other job, and its files."""

import asyncio
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import FileResponse

from control.access.view import Viewer
from control.errors import NotFound
from control.jobs.queue import JobQueue
from control.routes.job_display import JobDisplay
from control.routes.shards import download
from control.services import Given
from control.shards.inbox import ShardInbox
from control.shards.view import relative_name
from stepserve.paths import Layout

router = APIRouter()

JOB_TYPE = "data_gen"
_FILES = {"manifest.json": "application/json", "README.md": "text/markdown", "attempts.jsonl": "application/jsonl"}


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


@router.get("/data_gen/jobs/{job_id}/files/{name}")
async def get_file(job_id: str, name: str, queue: Given[JobQueue], layout: Given[Layout], view: Viewer) -> FileResponse:
    """manifest.json, README.md (the dataset card) and attempts.jsonl of a run."""
    await queue.get(job_id, JOB_TYPE, view=view)
    path = layout.runs / JOB_TYPE / job_id / Path(name).name
    if name not in _FILES or not await asyncio.to_thread(path.is_file):
        raise NotFound(f"{job_id} has no file {name!r} (there can be: {', '.join(_FILES)})")
    return FileResponse(path, media_type=_FILES[name])
