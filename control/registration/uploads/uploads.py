"""Uploads: every checkpoint that is on its way here. One a model id; what has arrived is kept until it is a model."""

import asyncio
import logging
import re
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from control.checkpoints.digest_cache import DigestCache
from control.errors import Conflict, Invalid, LengthRequired, NoSpace, NotFound, ServiceError
from control.models.placed_folders import PlacedFolders
from control.models.registration import check_id
from control.registration.uploads.known_chunks import Place, known_chunks
from control.registration.uploads.request import (
    BeginUpload,
    ClosePiece,
    DeclareFile,
    OpenPiece,
    check_file_name,
    check_sha256,
)
from control.registration.uploads.staged_file import Chunk, StagedFile, chunks_of
from control.registration.uploads.upload import Upload, forget, is_foreign, last_change_s, load
from stepserve.full_disk import is_disk_full

log = logging.getLogger(__name__)

SPARE_BYTES = 256 * 1024 * 1024  # left free for the database and logs
IDLE_S = 30.0  # after which another client may take an upload over, and a piece of a dead gateway counts no more
KEPT_S = 7 * 86_400.0
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")

Folders = Callable[[], Awaitable[list[Path]]]


@dataclass(slots=True)
class _Ticket:
    upload: Upload
    file: StagedFile
    begin: int
    end: int
    opened_s: float


class Uploads:
    """`model_folders` are the registered models' folders, newest first: what they hold need not be sent again."""

    def __init__(self, folder: Path, placed: PlacedFolders, cache: DigestCache, model_folders: Folders) -> None:
        self._folder = folder
        self._placed = placed
        self._cache = cache
        self._model_folders = model_folders
        self._uploads: dict[str, Upload] = {}
        self._tickets: dict[str, _Ticket] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def show(self, model_id: str) -> dict[str, Any]:
        """Raises NotFound."""
        async with self.alone(model_id):
            upload = await self._find(model_id)
            if upload is None:
                raise NotFound(f"nothing is being uploaded as {model_id!r}")
            return upload.show()

    async def begin(self, model_id: str, request: BeginUpload) -> dict[str, Any]:
        """Says which files the checkpoint will have. The same name again goes on; another takes over what is idle.

        Raises Invalid, Conflict while somebody else uploads under this id, NoSpace.
        """
        async with self.alone(model_id):
            upload = await self._find(model_id)
            if upload is not None and upload.name != request.upload:
                _check_idle(upload)
            if upload is None:
                upload = await self._new(model_id)
            upload.name, upload.touched_s = request.upload, time.monotonic()
            upload.expected = {file.name: file.size_bytes for file in request.files}
            upload.known = None
            with _disk(model_id):
                for name in [name for name in upload.files if name not in upload.expected]:
                    await asyncio.to_thread(upload.drop, name)
                there = sum(file.received_bytes for file in upload.files.values())
                await self._check_room(model_id, sum(upload.expected.values()) - there, besides=upload)
                await asyncio.to_thread(upload.save)
            self._uploads[model_id] = upload
            return upload.show()

    async def declare(self, model_id: str, name: str, request: DeclareFile) -> dict[str, Any]:
        """Says what a file consists of; the answer has the ranges `missing`, after what lies on this disk was copied.

        Raises NotFound (`begin` first), Conflict, Invalid.
        """
        async with self.alone(model_id):
            upload = await self._named(model_id, request.upload)
            if name not in upload.expected:
                raise Invalid(f"{name} is none of the files that this upload was begun with")
            chunks = chunks_of((chunk.size_bytes, chunk.sha256) for chunk in request.chunks)
            size_bytes = chunks[-1].end if chunks else 0
            if size_bytes != upload.expected[name]:
                raise Invalid(f"{name}: the chunks have {size_bytes} bytes, the file {upload.expected[name]}")
            file = upload.files.get(name)
            with _disk(name):
                if file is None or file.chunks != chunks:
                    file = await self._redeclare(upload, name, size_bytes, chunks)
                if upload.known is None:
                    folders = await self._model_folders()
                    upload.known = await asyncio.to_thread(known_chunks, folders, self._cache)
                copied = await asyncio.to_thread(upload.fill_from, name, upload.known)
            upload.touched_s = time.monotonic()
            return upload.show_file(name) | {"copied_bytes": copied, "missing": file.missing()}

    async def open(self, request: OpenPiece) -> dict[str, Any]:
        """A body is about to come in: where its bytes go. Raises Conflict for gaps and overlaps, Invalid, NoSpace."""
        model_id, name = _checked(check_id, request.model_id), _checked(check_file_name, request.name)
        sha256 = _checked(check_sha256, request.sha256) if request.sha256 else None
        if request.content_length is None:
            raise LengthRequired(f"{name}: the request must say its Content-Length")
        begin, end, size_bytes = _range(name, request)
        async with self.alone(model_id):
            upload = await self._find(model_id)
            if upload is not None and upload.name != request.upload:
                _check_idle(upload)
                upload = None if request.upload is None else upload
            if request.upload is not None:
                upload = await self._named(model_id, request.upload)
                file = upload.files.get(name)
                if file is None:
                    raise Conflict(f"{name} was not declared: POST /models/{model_id}/files/{name} first")
            else:
                upload = upload or await self._new(model_id)
                file = upload.files.get(name)
                if file is None or _starts_again(file, begin, size_bytes, sha256):
                    self._drop_stale(upload)
                    if file is not None and file.reserved:
                        raise Conflict(f"{name}: another request is sending it")
                    with _disk(name):
                        await self._check_room(name, size_bytes)
                        whole = [Chunk(0, size_bytes, sha256)] if size_bytes else []
                        file = await asyncio.to_thread(upload.add, name, size_bytes, whole)
                    self._uploads[model_id] = upload
            if size_bytes != file.size_bytes:
                raise Conflict(f"{name} has {file.size_bytes} bytes in this upload, not {size_bytes}")
            self._drop_stale(upload)
            if end > begin:
                file.reserve(begin, end)
            ticket = uuid.uuid4().hex
            upload.touched_s = time.monotonic()
            self._tickets[ticket] = _Ticket(upload, file, begin, end, upload.touched_s)
            return {"ticket": ticket, "path": str(upload.path_of(name)), "offset": begin, "length": end - begin}

    async def close(self, request: ClosePiece) -> dict[str, Any]:
        """The body is there, or as much of it as came; what is full is proven. Raises Invalid for wrong hashes."""
        ticket = self._tickets.pop(request.ticket, None)
        if ticket is None:
            raise Conflict("this piece of an upload came too late: it was given up meanwhile")
        upload, file = ticket.upload, ticket.file
        upload.touched_s = time.monotonic()
        full = file.arrived(ticket.begin, ticket.end, request.written_bytes)
        current = upload.files.get(file.name) is file
        with _disk(file.name):
            try:
                wrong = await asyncio.to_thread(upload.prove, file.name, full) if current and full else []
                shown = upload.show_file(file.name)
            finally:
                file.release(ticket.begin, ticket.end)
            if current and (file.prefixes or (file.complete and upload.name is None)):
                await asyncio.to_thread(upload.save)
        if request.disk_full:
            raise NoSpace(f"{file.name}: the disk is full; what has arrived is kept, make room and push again")
        if request.trouble is not None:
            raise ServiceError(f"{file.name} cannot be written: {request.trouble}")
        if wrong:
            index, found = wrong[0]
            chunk = file.chunks[index]
            raise Invalid(
                f"{file.name}: bytes {chunk.begin} to {chunk.end} have the sha256 {found}, not {chunk.sha256}:"
                " they are to be sent again"
            )
        return shown

    async def discard(self, model_id: str) -> None:
        """Forgets what has arrived. Raises NotFound, Conflict while bytes come in."""
        async with self.alone(model_id):
            upload = await self._find(model_id)
            if upload is None:
                raise NotFound(f"nothing is being uploaded as {model_id!r}")
            self._drop_stale(upload)
            if upload.busy:
                raise Conflict(f"files of {model_id} are coming in right now")
            await self._forget(upload)

    @asynccontextmanager
    async def whole(self, model_id: str) -> AsyncIterator[Upload | None]:
        """The id's upload, every file whole and on disk for good, while nobody else touches it; None: there is none.

        Raises Invalid naming what is missing.
        """
        async with self.alone(model_id):
            upload = await self._find(model_id)
            if upload is not None:
                self._drop_stale(upload)
                if upload.busy:
                    raise Conflict(f"files of {model_id} are coming in right now")
                upload.check_whole()
                with _disk(model_id):
                    await asyncio.to_thread(upload.sync)
            yield upload

    async def place(self, upload: Upload, target: Path) -> None:
        """Makes the whole upload the folder `target`, at once, and forgets the upload. Raises NoSpace, Conflict."""
        with _disk(upload.model_id):
            await self._placed.place(upload.files_folder, target, "upload")
            await asyncio.to_thread(upload.note_hashes, target, self._cache)
        await self._forget(upload)

    async def note_hashes(self, upload: Upload) -> None:
        """What was proven of a whole upload need not be read again to be looked at."""
        await asyncio.to_thread(upload.note_hashes, upload.files_folder, self._cache)

    async def drop(self, upload: Upload) -> None:
        """For a holder of `whole`: what came is not needed."""
        await self._forget(upload)

    def forget_old(self) -> None:
        """Removes what nobody has touched for a week. Blocks."""
        for folder in self._folder.iterdir() if self._folder.is_dir() else ():
            changed_s = last_change_s(folder)
            if changed_s is not None and time.time() - changed_s > KEPT_S:
                log.info("an upload that was never finished is removed: %s", folder)
                forget(folder)

    @asynccontextmanager
    async def alone(self, model_id: str) -> AsyncIterator[None]:
        """Nobody else uploads or registers under that id meanwhile. Raises Invalid when it is none."""
        _checked(check_id, model_id)
        async with self._locks.setdefault(model_id, asyncio.Lock()):
            yield

    async def _find(self, model_id: str) -> Upload | None:
        if model_id not in self._uploads:
            left = await asyncio.to_thread(load, self._folder / model_id)
            if left is None:
                return None
            left.touched_s = time.monotonic() - IDLE_S
            self._uploads[model_id] = left
            return left
        upload = self._uploads[model_id]
        if await asyncio.to_thread(upload.folder.is_symlink):
            del self._uploads[model_id]  # it is somebody else's folder now
            return None
        with _disk(model_id):
            await asyncio.to_thread(upload.forget_links)
        return upload

    async def _new(self, model_id: str) -> Upload:
        folder = self._folder / model_id
        if await asyncio.to_thread(is_foreign, folder):
            raise Conflict(
                f"{folder} holds files that no upload wrote, so none can be received there: use another id, or move"
                " them away"
            )
        return Upload(model_id, folder)

    async def _named(self, model_id: str, name: str) -> Upload:
        upload = await self._find(model_id)
        if upload is None:
            raise NotFound(f"nothing is being uploaded as {model_id!r}: POST /models/{model_id}/files first")
        if upload.name != name:
            raise Conflict(f"another upload of {model_id} ({upload.name}) has taken the place of this one")
        return upload

    async def _redeclare(self, upload: Upload, name: str, size_bytes: int, chunks: list[Chunk]) -> StagedFile:
        """The file with other chunks than before; those that it shares with what has come are kept."""
        before = upload.files.get(name)
        kept: dict[str, Place] = {}
        aside = upload.before
        if before is not None:
            if before.reserved:
                raise Conflict(f"{name}: another request is sending it with other content")
            await asyncio.to_thread(upload.path_of(name).replace, aside)
            kept = {
                before.chunks[index].sha256 or "": Place(aside, before.chunks[index].begin, before.chunks[index].end)
                for index in before.whole
            }
        file = await asyncio.to_thread(upload.add, name, size_bytes, chunks)
        if kept:
            await asyncio.to_thread(upload.fill_from, name, kept)
        await asyncio.to_thread(aside.unlink, missing_ok=True)
        return file

    async def _check_room(self, what: str, wanted_bytes: int, besides: Upload | None = None) -> None:
        """What others have announced and are sending counts as taken. Raises NoSpace, OSError."""
        if wanted_bytes <= 0:
            return
        free_bytes, promised_bytes = await asyncio.to_thread(self._room, besides)
        free_bytes = max(0, free_bytes - SPARE_BYTES - promised_bytes)
        if free_bytes < wanted_bytes:
            others = f" besides {promised_bytes} that other uploads will take" if promised_bytes else ""
            raise NoSpace(
                f"{what}: {wanted_bytes} bytes are to come and {free_bytes} are free in {self._folder}{others}; what"
                " has arrived is kept"
            )

    def _room(self, besides: Upload | None) -> tuple[int, int]:
        now_s = time.monotonic()
        live = [
            upload
            for upload in list(self._uploads.values())
            if upload is not besides and (upload.busy or now_s - upload.touched_s < IDLE_S)
        ]
        return shutil.disk_usage(self._folder).free, sum(upload.outstanding_bytes() for upload in live)

    def _drop_stale(self, upload: Upload) -> None:
        """Pieces whose gateway died: nothing was written for a while."""
        now_s = time.monotonic()
        for key, ticket in list(self._tickets.items()):
            if ticket.upload is not upload or now_s - ticket.opened_s < IDLE_S:
                continue
            try:
                idle_s = time.time() - upload.path_of(ticket.file.name).stat().st_mtime
            except OSError:
                idle_s = IDLE_S
            if idle_s >= IDLE_S:
                del self._tickets[key]
                ticket.file.release(ticket.begin, ticket.end)
                ticket.file.doubtful = True

    async def _forget(self, upload: Upload) -> None:
        self._uploads.pop(upload.model_id, None)
        for key in [key for key, ticket in self._tickets.items() if ticket.upload is upload]:
            del self._tickets[key]
        await asyncio.to_thread(upload.discard)


def _check_idle(upload: Upload) -> None:
    idle_s = time.monotonic() - upload.touched_s
    if upload.busy or idle_s < IDLE_S:
        raise Conflict(
            f"another upload of {upload.model_id} ({upload.name or 'file by file'}) is under way, its last sign"
            f" {idle_s:.0f} s ago: wait, or use another id"
        )


def _starts_again(file: StagedFile, begin: int, size_bytes: int, sha256: str | None) -> bool:
    """A first piece of other content than what is there, or of content that is there and whole."""
    if begin:
        return False
    told = file.chunks[0].sha256 if file.chunks else None
    return file.complete or size_bytes != file.size_bytes or (sha256 is not None and sha256 != told)


def _range(name: str, request: OpenPiece) -> tuple[int, int, int]:
    """begin, end and the file's size."""
    length = request.content_length or 0
    if request.content_range is None:
        return 0, length, length
    match = _RANGE.fullmatch(request.content_range.strip())
    if match is None:
        raise Invalid(f"{name}: Content-Range is {request.content_range!r}, not `bytes first-last/size`")
    first, last, size_bytes = map(int, match.groups())
    if last + 1 - first != length:
        raise Invalid(f"{name}: Content-Range has {last + 1 - first} bytes, the body {length}")
    return first, last + 1, size_bytes


def _checked(check: Callable[[str], str], text: str) -> str:
    try:
        return check(text)
    except ValueError as error:
        raise Invalid(str(error)) from error


@contextmanager
def _disk(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise NoSpace(f"{what}: the disk is full; what has arrived is kept, make room and push again") from error
        raise ServiceError(f"{what} cannot be written: {error.strerror}") from error
