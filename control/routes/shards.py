"""/shards: the trainer's inbox, and every finished shard over HTTP."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse
from pydantic import ConfigDict, Field
from starlette.types import Receive, Scope, Send

from control.access.view import Viewer
from control.clock import utc_now
from control.database.tables import ShardRow
from control.services import Given
from control.shards.inbox import ShardInbox, ShardStatus
from control.shards.view import JSONL, PARQUET, file_of, parquet_of, show
from stepserve.paths import Layout
from stepserve.request_model import RequestModel

router = APIRouter()

_MEDIA_TYPE = "application/jsonl"
_PARQUET_TYPE = "application/vnd.apache.parquet"


class ClaimRequest(RequestModel):
    """`timeout_s`: an unacknowledged shard is free again after it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    claimed_by: Annotated[str, Field(min_length=1, max_length=200)] = "trainer"
    timeout_s: Annotated[float, Field(gt=0, le=30 * 86_400)] = 3600.0
    job_id: str | None = None


class AckRequest(RequestModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    claim_id: str


class NackRequest(AckRequest):
    reason: Annotated[str, Field(max_length=1000)] | None = None


class ShardResponse(FileResponse):
    """A file in pieces, or the ranges of it that a GET asks for."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":  # ranges are a GET's alone (RFC 9110, 14.2)
            scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0] != b"range"]}
        await super().__call__(scope, receive, send)


async def download(row: ShardRow, layout: Layout) -> FileResponse:
    """Answers ranges, so an interrupted download can go on (RFC 9110, section 14). Raises NotFound.

    The entity tag is the content's: it stays when the file is moved, and a copy is served in its place.
    """
    path = await asyncio.to_thread(file_of, row, layout)
    headers = {} if row.sha256 is None else {"X-Sha256": row.sha256, "ETag": f'"{row.sha256}"'}
    return ShardResponse(path, media_type=_MEDIA_TYPE, filename=row.name, headers=headers)


@router.get("/shards")
async def list_shards(
    inbox: Given[ShardInbox],
    view: Viewer,
    status: ShardStatus | None = None,
    job_id: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> dict[str, Any]:
    now = utc_now()
    return {"shards": [show(row, now) for row in await inbox.published(status, job_id, limit, view)]}


@router.post("/shards/claim")
async def claim(inbox: Given[ShardInbox], view: Viewer, request: ClaimRequest | None = None) -> dict[str, Any]:
    """The oldest free shard with a `claim_id`, or `{"shard": null}`."""
    wish = request or ClaimRequest()
    row = await inbox.claim(wish.claimed_by, wish.timeout_s, wish.job_id, view)
    return {"shard": None if row is None else show(row, utc_now()) | {"claim_id": row.claim_id}}


@router.head("/shards/{name}", include_in_schema=False)
@router.get("/shards/{name}")
async def get_shard(name: str, inbox: Given[ShardInbox], layout: Given[Layout], view: Viewer) -> FileResponse:
    """The JSONL, or under the same name with `.parquet` the Parquet file beside it."""
    if not name.endswith(PARQUET):
        return await download(await inbox.get(name, view), layout)
    row = await inbox.get(name.removesuffix(PARQUET) + JSONL, view)
    path = await asyncio.to_thread(parquet_of, row, layout)
    return ShardResponse(path, media_type=_PARQUET_TYPE, filename=name)


@router.post("/shards/{name}/ack")
async def acknowledge(name: str, request: AckRequest, inbox: Given[ShardInbox], view: Viewer) -> dict[str, Any]:
    await inbox.get(name, view)
    return show(await inbox.acknowledge(name, request.claim_id), utc_now())


@router.post("/shards/{name}/nack")
async def refuse(name: str, request: NackRequest, inbox: Given[ShardInbox], view: Viewer) -> dict[str, Any]:
    await inbox.get(name, view)
    return show(await inbox.refuse(name, request.claim_id, request.reason), utc_now())
