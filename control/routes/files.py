"""/v1/files: what batches read and write."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal, get_args

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from control.access.view import View, Viewer
from control.batches.files import FileStore, Purpose, StoredFile
from control.errors import Conflict, Invalid, NotFound
from control.jobs.queue import JobQueue
from control.routes.job_references import JobReferences
from control.routes.pages import page
from control.services import Given
from stepserve.request_id import key_id

router = APIRouter(prefix="/v1/files")

_PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
_READ_BYTES = 1 << 20
_FORM = {"file", "purpose"}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": list(get_args(Purpose))},
                    },
                    "additionalProperties": False,
                }
            }
        },
    }
}


@router.post("", openapi_extra=_BODY)
async def upload(request: Request, store: Given[FileStore]) -> StoredFile:
    """A form with `file` and `purpose`, as the SDK sends it."""
    try:
        form = await request.form(max_files=1, max_fields=10)
    except HTTPException as error:
        raise Invalid(f"body: {error.detail}") from error
    try:
        unknown = set(form) - _FORM
        if unknown:
            raise Invalid(f"{min(unknown)}: unknown field")
        file, asked = form.get("file"), form.get("purpose")
        if not isinstance(file, UploadFile):
            raise Invalid("file: a file is needed, as multipart/form-data")
        purpose = next((known for known in _PURPOSES if known == asked), None)
        if purpose is None:
            raise Invalid(f"purpose: must be one of {', '.join(_PURPOSES)}")
        return await store.add((file.filename or "file")[:255], purpose, _chunks(file), key_id.get())
    finally:
        await form.close()


async def _chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(_READ_BYTES):
        yield chunk


@router.get("")
async def list_files(
    store: Given[FileStore],
    queue: Given[JobQueue],
    view: Viewer,
    purpose: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    after: str | None = None,
    order: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    files = await asyncio.to_thread(store.newest_first, purpose)
    if view.owner is not None:
        files = await _seen(files, store, queue, view)
    if order == "asc":
        files.reverse()
    if after is not None:
        ids = [each.id for each in files]
        files = files[ids.index(after) + 1 :] if after in ids else []
    return page([each.model_dump() for each in files[:limit]], has_more=len(files) > limit)


@router.get("/{file_id}")
async def get_file(file_id: str, store: Given[FileStore], references: Given[JobReferences], view: Viewer) -> StoredFile:
    await references.check_file(view, file_id)
    return await asyncio.to_thread(store.get, file_id)


@router.get("/{file_id}/content")
async def content(
    file_id: str, store: Given[FileStore], references: Given[JobReferences], view: Viewer
) -> FileResponse:
    await references.check_file(view, file_id)
    return FileResponse(await asyncio.to_thread(store.path, file_id), media_type="application/octet-stream")


@router.delete("/{file_id}")
async def delete(
    file_id: str,
    store: Given[FileStore],
    queue: Given[JobQueue],
    references: Given[JobReferences],
    view: Viewer,
) -> dict[str, Any]:
    """A file that a batch still reads stays: 409."""
    await references.check_file(view, file_id)
    await asyncio.to_thread(store.get, file_id)
    if user := await _used_by(file_id, queue):
        raise Conflict(f"{file_id} is the input of {user}, which is not over")
    await asyncio.to_thread(store.delete, file_id)
    return {"id": file_id, "object": "file", "deleted": True}


async def _seen(files: list[StoredFile], store: FileStore, queue: JobQueue, view: View) -> list[StoredFile]:
    batches = await queue.ids("batch", view)

    def is_seen(file: StoredFile) -> bool:
        job_id = store.job_of(file.id)
        if job_id is not None:
            return job_id in batches
        try:
            return view.sees(store.owner(file.id))
        except NotFound:  # deleted meanwhile
            return False

    return await asyncio.to_thread(lambda: [file for file in files if is_seen(file)])


async def _used_by(file_id: str, queue: JobQueue) -> str | None:
    for status in ("running", "pending"):
        for job in await queue.newest_first("batch", status, 10_000):
            if job.config.get("input_file_id") == file_id:
                return job.id
    return None
