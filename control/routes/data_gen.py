"""/data_gen/jobs: what a data generation job shows beside any other job, and its files."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse
from pydantic import ConfigDict, Field

from control.access.view import Viewer
from control.database.tables import ModelRow
from control.errors import Conflict, JobError, NotFound
from control.gateway_client import GatewayClient
from control.jobs.queue import JobQueue
from control.models.registry import Registry
from control.models.repository import ModelRepository
from control.routes.job_display import JobDisplay
from control.routes.job_references import JobReferences
from control.routes.shards import download
from control.services import Given
from control.shards.inbox import ShardInbox
from control.shards.view import relative_name
from stepserve.contract import ModelRef
from stepserve.jobs.datagen_ports import DataGenReports, PipelinePreviews, PreviewModels, RejectionQuery
from stepserve.paths import Layout
from stepserve.request_model import RequestModel

router = APIRouter()

JOB_TYPE = "data_gen"
_MOST_PREVIEWED = 50
_PREVIEWS_AT_ONCE = 2
_REPORT = "report.json"
_FILES = {
    "manifest.json": "application/json",
    "README.md": "text/markdown",
    "report.json": "application/json",
    "attempts.jsonl": "application/jsonl",
}


class PreviewRequest(RequestModel):
    """`config`: of a job with the strategy `pipeline`."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model_id: Annotated[str, Field(min_length=1, max_length=256)] = "active"
    config: dict[str, Any]
    rows: Annotated[int, Field(ge=1, le=_MOST_PREVIEWED)] = 10


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


@router.head("/data_gen/jobs/{job_id}/shards/{name:path}", include_in_schema=False)
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


def previews_router(previews: PipelinePreviews) -> APIRouter:
    routes = APIRouter()
    turns = asyncio.Semaphore(_PREVIEWS_AT_ONCE)

    @routes.post("/data_gen/pipelines/preview")
    async def preview(
        asked: PreviewRequest,
        registry: Given[Registry],
        repository: Given[ModelRepository],
        references: Given[JobReferences],
        gateway: Given[GatewayClient],
        view: Viewer,
    ) -> dict[str, Any]:
        """The first rows of a pipeline, as a job with the answer's `seed` would make them, with every column's value.
        Asks models that are loaded, and loads none; makes no job and no shard, and compares rows with nothing."""
        model_id = await registry.resolve(asked.model_id)
        await references.check(view, {"config": asked.config})
        async with turns:
            opened = await asyncio.to_thread(previews.open, asked.config)
            others = {}
            for other, field in opened.models.items():
                try:
                    others[other] = _ref(await repository.get(other))
                except NotFound as error:
                    raise NotFound(f"config.{field}: {error}") from error
            models = PreviewModels(_ref(await repository.get(model_id)), others)
            try:
                return await opened.rows(asked.rows, gateway, models)
            except JobError as error:
                raise Conflict(f"a preview asks models that are loaded, and one is not: {error}") from error

    return routes


def _ref(model: ModelRow) -> ModelRef:
    return ModelRef(id=model.id, path=model.path, digest=model.digest)
