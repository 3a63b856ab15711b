"""/v1/batches: batches as OpenAI's clients make and follow them."""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query
from pydantic import ConfigDict

from control.access.view import Viewer
from control.batches.files import FileStore
from control.batches.kind import BatchJobRequest, BatchKind
from control.batches.requests import Endpoint, model_of
from control.batches.view import show_batch
from control.database.tables import JobRow
from control.jobs.queue import JobQueue
from control.jobs.runner import JobRunner
from control.jobs.states import LIVE
from control.models.aliases import Aliases
from control.routes.job_intake import JobIntake
from control.routes.job_references import JobReferences
from control.routes.pages import page
from control.services import Given
from stepserve.request_model import RequestModel

TYPE = BatchKind.type
router = APIRouter(prefix="/v1/batches")


class CreateBatch(RequestModel):
    """`completion_window` is what OpenAI's clients send; a batch here takes as long as it takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input_file_id: str
    endpoint: Endpoint
    completion_window: Literal["24h"] = "24h"
    metadata: dict[str, str] | None = None


@router.post("")
async def create(
    request: CreateBatch,
    store: Given[FileStore],
    kind: Given[BatchKind],
    aliases: Given[Aliases],
    references: Given[JobReferences],
    intake: Given[JobIntake],
    queue: Given[JobQueue],
    view: Viewer,
    key: Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)] = None,
) -> dict[str, Any]:
    """The model is the one that the file's requests name."""
    await references.check_file(view, request.input_file_id)
    path = await asyncio.to_thread(store.path, request.input_file_id)
    model_id = aliases.model_of(await asyncio.to_thread(model_of, path, request.endpoint))
    job_request = BatchJobRequest.model_validate({"model_id": model_id, **request.model_dump()})
    made = await intake.make(kind, job_request, key, view)
    return await _shown(await queue.get(made["job_id"], TYPE), store)


@router.get("")
async def list_batches(
    queue: Given[JobQueue],
    store: Given[FileStore],
    view: Viewer,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: str | None = None,
) -> dict[str, Any]:
    last = await queue.get(after, TYPE, view=view) if after is not None else None
    jobs = await queue.newest_first(TYPE, None, limit + 1, last, view=view)
    shown = [await _shown(job, store) for job in jobs[:limit]]
    return page(shown, has_more=len(jobs) > limit)


@router.get("/{batch_id}")
async def get_batch(batch_id: str, queue: Given[JobQueue], store: Given[FileStore], view: Viewer) -> dict[str, Any]:
    return await _shown(await queue.get(batch_id, TYPE, view=view), store)


@router.post("/{batch_id}/cancel")
async def cancel(
    batch_id: str, queue: Given[JobQueue], runner: Given[JobRunner], store: Given[FileStore], view: Viewer
) -> dict[str, Any]:
    """What was answered stays in the output file. One that is over already is shown as it is."""
    job = await queue.get(batch_id, TYPE, view=view)
    if job.status in LIVE:
        job = await queue.cancel(batch_id)
        runner.interrupt(batch_id)
    return await _shown(job, store)


async def _shown(job: JobRow, store: FileStore) -> dict[str, Any]:
    return await asyncio.to_thread(show_batch, job, store)
