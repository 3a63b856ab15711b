"""/keys and /audit: who may use this server, and what administrators did."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import ConfigDict, ValidationError

from control.access.audit_log import AuditLog
from control.access.key_book import KeyBook
from control.access.new_key import NewKey
from control.access.principal import Principal
from control.access.usage_book import UsageBook, UsageSum
from control.clock import iso, utc_now
from control.database.tables import ApiKeyRow
from control.errors import NotFound
from control.services import Given
from stepserve.access import (
    CONTROL_RECOVER_PATH,
    CONTROL_SYNC_PATH,
    OWNER,
    KeyMemory,
    KeySet,
    SyncAnswer,
    SyncRequest,
)
from stepserve.paths import Layout
from stepserve.request_model import RequestModel

router = APIRouter()


@router.post("/keys", status_code=201)
async def create(wanted: NewKey, http: Request, response: Response, keys: Given[KeyBook]) -> dict[str, Any]:
    """The only answer that ever holds the key itself."""
    row, token = await keys.create(wanted, Principal.of(http.scope["headers"]).actor)
    response.headers["Cache-Control"] = "no-store"
    return {"key": token} | _show(row, [])


@router.get("/keys")
async def list_keys(book: Given[UsageBook], keys: Given[KeyBook]) -> dict[str, Any]:
    usage = await book.of()
    rows = await keys.newest_first()
    return {"keys": [_show(row, [each for each in usage if each.key_id == row.id]) for row in rows]}


@router.get("/keys/{key_id}")
async def get_key(key_id: str, keys: Given[KeyBook], book: Given[UsageBook]) -> dict[str, Any]:
    """A key with what it used of each model on each day."""
    row = await keys.get(key_id)
    usage = await book.of(key_id)
    days = [
        {
            "day": each.day,
            "model": each.model,
            "requests": each.requests,
            "prompt_tokens": each.prompt_tokens,
            "completion_tokens": each.completion_tokens,
        }
        for each in usage
    ]
    return _show(row, usage) | {"usage_by_day": days}


@router.delete("/keys/{key_id}")
async def revoke(key_id: str, keys: Given[KeyBook]) -> dict[str, Any]:
    row = await keys.revoke(key_id)
    return {"status": "revoked", "id": row.id, "revoked_at": iso(row.revoked_at)}


@router.get("/audit")
async def audit(
    audit_log: Given[AuditLog], limit: Annotated[int, Query(ge=1, le=1000)] = 100, actor: str | None = None
) -> dict[str, Any]:
    """The newest first. `status` is null while an action runs, and stays so when control died in it."""
    rows = await audit_log.newest_first(limit, actor)
    entries = [
        {
            "id": row.id,
            "at": iso(row.at),
            "actor": row.actor,
            "client": row.client,
            "method": row.method,
            "path": row.path,
            "target": row.target,
            "status": row.status,
            "ended_at": iso(row.ended_at),
        }
        for row in rows
    ]
    return {"entries": entries}


@router.post(CONTROL_SYNC_PATH, include_in_schema=False)
async def sync(request: SyncRequest, book: Given[UsageBook], keys: Given[KeyBook]) -> SyncAnswer:
    """The gateway's alone: it hands no such path on from outside."""
    await book.note(request.source, request.usage)
    return SyncAnswer(keys=await keys.newer_than(request.epoch, request.revision))


class RecoverRequest(RequestModel):
    """`new_key`: an administrator's key is made as well."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    new_key: bool = True


@router.post(CONTROL_RECOVER_PATH, include_in_schema=False)
async def recover(
    request: RecoverRequest, http: Request, response: Response, layout: Given[Layout], keys: Given[KeyBook]
) -> dict[str, Any]:
    """The machine owner's alone, on control's own socket: `stepserve keys recover`."""
    if Principal.of(http.scope["headers"]).actor != OWNER:
        raise NotFound("keys are recovered on the server's machine: stepserve keys recover")
    remembered = await asyncio.to_thread(_remembered, layout.key_cache)
    done = await keys.recover(remembered, with_new_key=request.new_key)
    response.headers["Cache-Control"] = "no-store"
    made = None if done.made is None else {"key": done.token} | _show(done.made, [])
    return {"status": "recovered", "brought_back": done.brought_back, "revoked": done.revoked, "made": made}


def _remembered(file: Path) -> KeySet | None:
    """What the gateway knows of the keys; None where there is nothing that can be read."""
    try:
        return KeyMemory.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None


def _show(row: ApiKeyRow, usage: Sequence[UsageSum]) -> dict[str, Any]:
    if row.revoked_at is not None:
        status = "revoked"
    elif row.expires_at is not None and row.expires_at <= utc_now():
        status = "expired"
    else:
        status = "valid"
    return {
        "id": row.id,
        "name": row.name,
        "status": status,
        "scopes": row.scopes,
        "created_at": iso(row.created_at),
        "created_by": row.created_by,
        "expires_at": iso(row.expires_at),
        "revoked_at": iso(row.revoked_at),
        "requests_per_min": row.requests_per_min,
        "tokens_per_min": row.tokens_per_min,
        "max_concurrent": row.max_concurrent,
        "keep_traffic": row.keep_traffic,
        "usage": {
            "requests": sum(each.requests for each in usage),
            "prompt_tokens": sum(each.prompt_tokens for each in usage),
            "completion_tokens": sum(each.completion_tokens for each in usage),
        },
    }
