"""Uploaded files, a folder each with `content` and `meta.json`, and the output files in the runs of batches."""

import asyncio
import json
import re
import secrets
import shutil
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from control.clock import Clock, utc_now
from control.errors import Invalid, NotFound
from stepserve.durable import put_in_place, sync_open, write_whole
from stepserve.paths import Layout

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
OUTPUT_FILES = {"output": "output.jsonl", "errors": "errors.jsonl"}

_UPLOAD_ID = re.compile(r"file-[0-9a-f]{24}")
_OUTPUT_ID = re.compile(r"file-(?P<job_id>batch_[0-9]{8}_[0-9]{6}_[a-z0-9]{4})-(?P<part>output|errors)")
_CONTENT, _META, _OWNER = "content", "meta.json", "owner"


class StoredFile(BaseModel):
    """A file as OpenAI shows it; `created_at` is in seconds since 1970."""

    model_config = ConfigDict(frozen=True)

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: None = None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: None = None


class FileStore:
    """An upload is there whole or not at all: it is written aside and renamed. Methods block, but for `add`."""

    def __init__(self, layout: Layout, max_file_bytes: int, clock: Clock = utc_now) -> None:
        self._folder = layout.files
        self._runs = layout.runs / "batch"
        self._max_file_bytes = max_file_bytes
        self._clock = clock

    async def add(
        self, filename: str, purpose: Purpose, chunks: AsyncIterator[bytes], owner: str | None = None
    ) -> StoredFile:
        """`owner`: the key that brought it.

        Raises Invalid when the file is empty or too long, and what `chunks` raises; nothing is left then."""
        file_id = f"file-{secrets.token_hex(12)}"
        aside = self._folder / f".{file_id}.part"
        aside.mkdir(parents=True)
        try:
            size_bytes = await self._write(aside / _CONTENT, chunks)
            stored = StoredFile(
                id=file_id, bytes=size_bytes, created_at=_seconds(self._clock()), filename=filename, purpose=purpose
            )
            write_whole(aside / _META, json.dumps(stored.model_dump() | {_OWNER: owner}))
            put_in_place(aside, self._folder / file_id)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        return stored

    async def _write(self, path: Path, chunks: AsyncIterator[bytes]) -> int:
        size_bytes = 0
        with path.open("wb") as file:
            async for chunk in chunks:
                size_bytes += len(chunk)
                if size_bytes > self._max_file_bytes:
                    raise Invalid(f"file: longer than {self._max_file_bytes} bytes (setting max_file_bytes)")
                await asyncio.to_thread(file.write, chunk)
            if not size_bytes:
                raise Invalid("file: is empty")
            await asyncio.to_thread(sync_open, file)
        return size_bytes

    def get(self, file_id: str) -> StoredFile:
        """Raises NotFound."""
        path = self.path(file_id)
        found = _OUTPUT_ID.fullmatch(file_id)
        if found is None:
            return StoredFile.model_validate_json((path.parent / _META).read_bytes())
        facts = path.stat()
        return StoredFile(
            id=file_id,
            bytes=facts.st_size,
            created_at=int(facts.st_mtime),
            filename=f"{found['job_id']}_{found['part']}.jsonl",
            purpose="batch_output",
        )

    def path(self, file_id: str) -> Path:
        """Of the content. Raises NotFound."""
        if found := _OUTPUT_ID.fullmatch(file_id):
            path = self._runs / found["job_id"] / OUTPUT_FILES[found["part"]]
        elif _UPLOAD_ID.fullmatch(file_id):
            path = self._folder / file_id / _CONTENT
        else:
            path = None
        if path is None or not path.is_file():
            raise NotFound(f"there is no file {file_id!r}")
        return path

    def owner(self, file_id: str) -> str | None:
        """The key that brought an uploaded file; None where that is not known. Raises NotFound."""
        try:
            return _owner_of(json.loads((self.path(file_id).parent / _META).read_bytes()))
        except (OSError, ValueError):
            return None

    @staticmethod
    def job_of(file_id: str) -> str | None:
        """The batch that wrote a file; None for an upload."""
        found = _OUTPUT_ID.fullmatch(file_id)
        return found["job_id"] if found else None

    def output_id(self, job_id: str, part: Literal["output", "errors"]) -> str | None:
        """The id of what a batch has written; None where that is nothing."""
        path = self._runs / job_id / OUTPUT_FILES[part]
        return f"file-{job_id}-{part}" if path.is_file() and path.stat().st_size else None

    def newest_first(self, purpose: str | None) -> list[StoredFile]:
        """Newest first."""
        ids = [entry.name for entry in self._entries(self._folder) if _UPLOAD_ID.fullmatch(entry.name)]
        for run in self._entries(self._runs):
            ids += [found for part in ("output", "errors") if (found := self.output_id(run.name, part))]
        files = [stored for file_id in ids if (stored := self._get_or_none(file_id)) is not None]
        files = [stored for stored in files if purpose in (None, stored.purpose)]
        return sorted(files, key=lambda stored: (stored.created_at, stored.id), reverse=True)

    def delete(self, file_id: str) -> None:
        """Raises NotFound."""
        path = self.path(file_id)
        if _OUTPUT_ID.fullmatch(file_id):
            path.unlink(missing_ok=True)
            return
        gone = self._folder / f".{file_id}.gone"
        path.parent.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _get_or_none(self, file_id: str) -> StoredFile | None:
        try:
            return self.get(file_id)
        except (NotFound, OSError, ValidationError):  # deleted meanwhile, or damaged by hand
            return None

    @staticmethod
    def _entries(folder: Path) -> list[Path]:
        return list(folder.iterdir()) if folder.is_dir() else []


def _owner_of(meta: object) -> str | None:
    owner = meta.get(_OWNER) if isinstance(meta, dict) else None
    return owner if isinstance(owner, str) else None


def _seconds(moment: datetime) -> int:
    return int(moment.timestamp())
