"""/v1/batches: batches as OpenAI's clients make and follow them."""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query
from pydantic import BaseModel, ConfigDict

from control.access.view import Viewer
from control.batches.kind import BatchJobRequest, BatchKind
from control.batches.requests import Endpoint, model_of
from control.batches.view import show_batch
from control.database.tables import JobRow
from control.jobs.states import LIVE
from control.routes.job_references import check_file
from control.routes.kinds import make_job
from control.routes.pages import page
from control.services import Services, Wired

TYPE = BatchKind.type
router = APIRouter(prefix="/v1/batches")


class CreateBatch(BaseModel):
    """`completion_window` is what OpenAI's clients send; a batch here takes as long as it takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input_file_id: str
    endpoint: Endpoint
    completion_window: Literal["24h"] = "24h"
    metadata: dict[str, str] | None = None


@router.post("")
async def create(
    request: CreateBatch,
    services: Wired,
    view: Viewer,
    key: Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)] = None,
) -> dict[str, Any]:
    """The model is the one that the file's requests name."""
    await check_file(services, view, request.input_file_id)
    path = await asyncio.to_thread(services.files.path, request.input_file_id)
    name = await asyncio.to_thread(model_of, path, request.endpoint)
    alias = services.aliases.get(name)
    model_id = alias.model if alias else name
    job_request = BatchJobRequest.model_validate({"model_id": model_id, **request.model_dump()})
    made = await make_job(services, services.batch_kind, job_request, key, view)
    return await _shown(await services.queue.get(made["job_id"], TYPE), services)


@router.get("")
async def list_batches(
    services: Wired, view: Viewer, limit: Annotated[int, Query(ge=1, le=100)] = 20, after: str | None = None
) -> dict[str, Any]:
    last = await services.queue.get(after, TYPE, view=view) if after is not None else None
    jobs = await services.queue.newest_first(TYPE, None, limit + 1, last, view=view)
    shown = [await _shown(job, services) for job in jobs[:limit]]
    return page(shown, has_more=len(jobs) > limit)


@router.get("/{batch_id}")
async def get_batch(batch_id: str, services: Wired, view: Viewer) -> dict[str, Any]:
    return await _shown(await services.queue.get(batch_id, TYPE, view=view), services)


@router.post("/{batch_id}/cancel")
async def cancel(batch_id: str, services: Wired, view: Viewer) -> dict[str, Any]:
    """What was answered stays in the output file. One that is over already is shown as it is."""
    job = await services.queue.get(batch_id, TYPE, view=view)
    if job.status in LIVE:
        job = await services.queue.cancel(batch_id)
        services.runner.interrupt(batch_id)
    return await _shown(job, services)


async def _shown(job: JobRow, services: Services) -> dict[str, Any]:
    return await asyncio.to_thread(show_batch, job, services.files)
