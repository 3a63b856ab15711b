"""A model's files on a member: the same folder where it is seen here too, else fetched from control, in ranges.

Of a file that another model here has too, or that a delta makes of one, nothing but the delta is fetched. Every byte is
checked by the hash that control gives, whichever way it came.
"""

import asyncio
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import BinaryIO

import httpx

from gateway.errors import StageFailed, StageNoSpace
from gateway.fleet.patching import PatchFailed, patch
from stepserve.contract import ModelRef
from stepserve.durable import put_in_place, sync
from stepserve.file_names import RULE, can_be_sent
from stepserve.fleet import (
    FLEET_FILES_PATH,
    KEPT_DELTA_FILE,
    MEMBER_FILES_PATH,
    MEMBER_PREFIX,
    WEIGHTS_FILE,
    FileDelta,
    FileEntry,
    FileManifest,
    FileSource,
    StageAnswer,
    StageRequest,
)
from stepserve.own_files import is_own, open_own

log = logging.getLogger(__name__)

_CHUNK_BYTES = 1024 * 1024
_ATTEMPTS = 5  # in a row that bring nothing
_PAUSE_S = 1.0
_SPARE_BYTES = 100_000_000
_MOST_PLACES = 100
_KEPT = 2  # models that nothing serves now, for the way back


class MemberFiles:
    """`folder` is this module's own; `in_use` names the folders that are loaded now, which stay. `peers`: the way to
    other members.
    """

    def __init__(
        self, folder: Path, control: httpx.AsyncClient, peers: httpx.AsyncClient, in_use: Callable[[], Iterable[Path]]
    ) -> None:
        self._folder = folder
        self._control = control
        self._peers = peers
        self._places: dict[str, tuple[Path, frozenset[str]]] = {}  # by digest
        self._in_use = in_use
        self._verified: dict[Path, tuple[tuple[int, int, int], str]] = {}
        self._turns = asyncio.Lock()

    async def stage(self, request: StageRequest) -> StageAnswer:
        """The model with paths of this machine, every file there and checked. Raises StageFailed, StageNoSpace."""
        by_model = {manifest.model: manifest for manifest in request.manifests}
        keep = set(map(self._folder_of, request.manifests))
        async with self._turns:
            model, fetched_bytes = await self._place(request.model, by_model, keep, request.source)
            if model.base is not None:
                base, more_bytes = await self._place(model.base, by_model, keep, None)
                model, fetched_bytes = model.model_copy(update={"base": base}), fetched_bytes + more_bytes
            await self._tidy(keep, _KEPT)
        return StageAnswer(model=model, fetched_bytes=fetched_bytes)

    def _folder_of(self, manifest: FileManifest) -> Path:
        content = manifest.model_dump_json(exclude={"delta"})
        return self._folder / hashlib.sha256(content.encode()).hexdigest()[:32]

    async def _place(
        self, model: ModelRef, manifests: dict[str, FileManifest], keep: set[Path], source: FileSource | None
    ) -> tuple[ModelRef, int]:
        manifest = manifests.get(model.id)
        if manifest is None or not manifest.files:
            raise StageFailed(f"control named no files of {model.id}")
        for file in manifest.files:
            if not can_be_sent(file.name):
                raise StageFailed(f"{file.name!r} is not a name of a model's file ({RULE})")
        if manifest.delta is not None and manifest.delta.file.name != KEPT_DELTA_FILE:
            raise StageFailed(f"{manifest.delta.file.name!r} is not the name of a delta ({KEPT_DELTA_FILE})")
        names = frozenset([KEPT_DELTA_FILE, *(file.name for file in manifest.files)])
        if await asyncio.to_thread(self._has_all, Path(model.path), manifest.files):
            self._note(manifest.digest, Path(model.path), names)
            return model, 0
        folder = self._folder_of(manifest)
        try:
            fetched_bytes = await self._fetch_all(folder, manifest, keep, source)
        except OSError as error:
            raise StageFailed(f"{folder} cannot be written: {error.strerror or error}") from error
        self._note(manifest.digest, folder, names)
        return model.model_copy(update={"path": str(folder)}), fetched_bytes

    def _note(self, digest: str, folder: Path, names: frozenset[str]) -> None:
        """It can be sent to others from there; the last few are known."""
        self._places.pop(digest, None)
        self._places[digest] = folder, names
        if len(self._places) > _MOST_PLACES:
            del self._places[next(iter(self._places))]

    def path(self, digest: str, name: str) -> Path | None:
        """Where a file of a model lies that was staged here; None: it was not, or is gone."""
        folder, names = self._places.get(digest, (None, frozenset()))
        if folder is None or name not in names or not (folder / name).is_file():
            return None
        return folder / name

    async def _fetch_all(self, folder: Path, manifest: FileManifest, keep: set[Path], source: FileSource | None) -> int:
        """How many bytes came over the network."""
        missing = [file for file in manifest.files if not await asyncio.to_thread(self._has, folder, file)]
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True, mode=0o700)
        needed = [*missing, manifest.delta.file] if missing and manifest.delta is not None else missing
        lacks_bytes, free_bytes = await asyncio.to_thread(_room, folder, needed)
        if lacks_bytes > free_bytes:  # going on is worth more than the way back to what nothing serves
            await self._tidy(keep, 0)
            lacks_bytes, free_bytes = await asyncio.to_thread(_room, folder, needed)
        if lacks_bytes > free_bytes:
            raise StageNoSpace(
                f"{manifest.model} needs {lacks_bytes / 1e9:.2f} GB more in {folder}:"
                f" {free_bytes / 1e9:.2f} GB are free"
            )
        fetched_bytes = 0
        for file in missing:
            if await asyncio.to_thread(self._copied, folder, file):
                continue
            delta = manifest.delta if file.name == WEIGHTS_FILE else None
            base = self.path(delta.base, WEIGHTS_FILE) if delta is not None else None
            if delta is not None and base is not None:
                if not await asyncio.to_thread(self._has, folder, delta.file):
                    fetched_bytes += await self._fetch(folder, manifest, delta.file, source)
                if await asyncio.to_thread(self._patched, folder, file, delta, base):
                    continue
            fetched_bytes += await self._fetch(folder, manifest, file, source)
        return fetched_bytes

    def _copied(self, folder: Path, file: FileEntry) -> bool:
        """Whether the file is there now, from another folder here that has the same. Blocks. Raises OSError."""
        for path, (_, sha256) in list(self._verified.items()):
            if sha256 == file.sha256 and self._has(path.parent, file.model_copy(update={"name": path.name})):
                return self._is_made(folder, file, partial(shutil.copyfile, path))
        return False

    def _patched(self, folder: Path, file: FileEntry, delta: FileDelta, base: Path) -> bool:
        """Whether the file is there now, made by the delta. Blocks. Raises OSError."""
        try:
            return self._is_made(folder, file, partial(patch, base, folder / delta.file.name))
        except PatchFailed as error:
            log.warning("the weights of %s are fetched whole, their delta does not fit: %s", delta.base, error)
            return False

    def _is_made(self, folder: Path, file: FileEntry, make: Callable[[Path], object]) -> bool:
        """Whether `make` wrote what the file is to be. Blocks. Raises OSError, and what `make` raises."""
        target = folder / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        part = _part(target)
        part.unlink(missing_ok=True)  # a link would be written through
        try:
            make(part)
            if _sha256(part) != file.sha256:
                return False
            sync(part)
            put_in_place(part, target)
        finally:
            part.unlink(missing_ok=True)
        self._verified[target] = (_stamp(target), file.sha256)
        return True

    async def _fetch(self, folder: Path, manifest: FileManifest, file: FileEntry, source: FileSource | None) -> int:
        """Goes on where an earlier attempt, or an earlier process, stopped; from control where `source` fails."""
        target = folder / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        part = _part(target)
        await asyncio.to_thread(_made_own, part)
        failures, fetched_bytes = 0, 0
        while True:
            begin = part.stat().st_size
            try:
                if begin < file.size_bytes:
                    await self._receive(part, manifest, file, begin, source)
                break
            except (httpx.HTTPError, OSError) as error:
                if isinstance(error, OSError):
                    raise
                if source is not None:
                    log.info("%s of %s does not come from %s: %r", file.name, manifest.model, source.url, error)
                    source = None
                    continue
                now = part.stat().st_size
                fetched_bytes += now - begin
                failures = 0 if now > begin else failures + 1
                if failures >= _ATTEMPTS:
                    reason = str(error) or type(error).__name__
                    raise StageFailed(
                        f"{file.name} of {manifest.model} cannot be fetched from control: {reason}"
                    ) from error
                await asyncio.sleep(_PAUSE_S)
        if await asyncio.to_thread(_sha256, part) != file.sha256:
            part.unlink(missing_ok=True)
            raise StageFailed(f"{file.name} of {manifest.model} came with other content than control said")
        await asyncio.to_thread(sync, part)
        await asyncio.to_thread(put_in_place, part, target)
        self._verified[target] = (_stamp(target), file.sha256)
        return fetched_bytes + file.size_bytes - begin

    async def _receive(
        self, part: Path, manifest: FileManifest, file: FileEntry, begin: int, source: FileSource | None
    ) -> None:
        """Raises httpx.HTTPError, StageFailed for what control refuses."""
        headers = {"range": f"bytes={begin}-"} if begin else {}
        if source is None:
            url = f"{FLEET_FILES_PATH}/{manifest.model}/{file.name}"
            asked = self._control.stream("GET", url, params={"digest": manifest.digest}, headers=headers)
        else:
            url = f"{source.url}{MEMBER_PREFIX}{MEMBER_FILES_PATH}/{manifest.digest}/{file.name}"
            headers["authorization"] = source.authorization
            asked = self._peers.stream("GET", url, headers=headers)
        async with asked as answer:
            if source is None and 400 <= answer.status_code < 500:
                said = (await answer.aread())[:300].decode(errors="replace")
                raise StageFailed(f"control refuses {file.name} of {manifest.model}: {answer.status_code} {said}")
            answer.raise_for_status()
            with _writable(part, anew=answer.status_code != 206) as stream:
                async for chunk in answer.aiter_bytes(_CHUNK_BYTES):
                    await asyncio.to_thread(stream.write, chunk)

    def _has_all(self, folder: Path, files: Iterable[FileEntry]) -> bool:
        """Whether the folder that control names is seen here too. Sizes first: most folders are not, or are others."""
        files = list(files)
        try:
            if any((folder / file.name).stat().st_size != file.size_bytes for file in files):
                return False
        except OSError:
            return False
        return all(self._has(folder, file) for file in files)

    def _has(self, folder: Path, file: FileEntry) -> bool:
        """Whether a file is there with that content; read once. Blocks."""
        path = folder / file.name
        try:
            now = _stamp(path)
            known = self._verified.get(path)
            if known is None or known[0] != now:
                known = self._verified[path] = (now, _sha256(path))
        except OSError:
            return False
        return known[1] == file.sha256

    async def _tidy(self, keep: set[Path], most: int) -> None:
        """Removes what was fetched earlier, but for what is loaded and the `most` last others."""
        await asyncio.to_thread(self._remove_others, keep | set(self._in_use()), most)

    def _remove_others(self, keep: set[Path], most: int) -> None:
        """Blocks."""
        try:
            others = [each for each in self._folder.iterdir() if each.is_dir() and each not in keep]
            others.sort(key=lambda each: each.stat().st_mtime, reverse=True)
        except OSError:
            return
        for folder in others[most:]:
            log.info("%s is removed: nothing serves it", folder)
            shutil.rmtree(folder, ignore_errors=True)
            self._verified = {path: known for path, known in self._verified.items() if folder not in path.parents}


def _part(target: Path) -> Path:
    """Where a file is until it is whole and checked."""
    return target.with_name(f".{target.name}.part")


def _made_own(part: Path) -> None:
    """A file is there that no link leads to, so that nothing else is written to. Blocks."""
    if not is_own(part):
        part.unlink(missing_ok=True)
        part.touch()


def _writable(part: Path, *, anew: bool) -> BinaryIO:
    """At its end, or `anew` from its beginning. Blocks. Raises OSError, for a link too."""
    descriptor = open_own(part, os.O_WRONLY | os.O_APPEND)
    if anew:
        os.ftruncate(descriptor, 0)
    return os.fdopen(descriptor, "ab")


def _room(folder: Path, missing: Iterable[FileEntry]) -> tuple[int, int]:
    """How many bytes have to come yet, with some to spare, and how many are free. Blocks."""
    lacks_bytes = 0
    for file in missing:
        part = _part(folder / file.name)
        lacks_bytes += max(0, file.size_bytes - (part.stat().st_size if part.exists() else 0))
    return lacks_bytes + (_SPARE_BYTES if lacks_bytes else 0), shutil.disk_usage(folder).free


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
