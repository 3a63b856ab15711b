"""The files of registered models, for members that do not see the same folder: named by content, sent in ranges."""

import asyncio
import hashlib
import threading
from pathlib import Path
from weakref import WeakValueDictionary

from control.checkpoints.digest_cache import Stamp, stamp
from control.errors import Conflict, Invalid, NotFound
from control.models.repository import ModelRepository
from stepserve.client.checkpoint import look
from stepserve.client.errors import StepserveError
from stepserve.fleet import FLEET_FILES_PATH, KEPT_DELTA_FILE, FileDelta, FileEntry, FileManifest

_READ_BYTES = 4 * 1024 * 1024
_MOST_HASHES = 1000  # then those of files that are gone are forgotten


class ModelFiles:
    """Each file is read once for its hash, and again when it was touched. Only what has a manifest can be asked for."""

    def __init__(self, models: ModelRepository) -> None:
        self._models = models
        self._offered: dict[str, Path] = {}
        self._hashes: dict[Path, tuple[Stamp, str]] = {}
        self._lock = threading.Lock()
        self._turns: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()

    async def manifest(self, model_id: str) -> FileManifest:
        """Of a registered model. Raises NotFound, Invalid."""
        row = await self._models.get(model_id)
        return await self.manifest_at(row.id, row.digest, Path(row.path))

    async def manifest_at(
        self, model_id: str, digest: str, folder: Path, delta_base: str | None = None
    ) -> FileManifest:
        """What makes the model that lies in a folder, an adapter's own files without its base's. Raises Invalid.

        `delta_base`: the digest of the version that the folder's KEPT_DELTA_FILE is for.
        """
        delta, file = None, folder / KEPT_DELTA_FILE
        async with self._turns.setdefault(
            folder, asyncio.Lock()
        ):  # many members ask at once, and one reading is enough
            files = await asyncio.to_thread(self._entries, folder)
            if delta_base is not None and await asyncio.to_thread(file.is_file):
                entry = await asyncio.to_thread(self._entry, KEPT_DELTA_FILE, file)
                delta = FileDelta(base=delta_base, file=entry)
        self._offered[digest] = folder
        return FileManifest(model=model_id, digest=digest, files=files, delta=delta)

    async def path(self, model_id: str, name: str, digest: str) -> Path:
        """Where a file of a manifest lies. Raises NotFound, Invalid, Conflict."""
        folder = self._offered.get(digest)
        if folder is None:
            raise Conflict(f"digest: ask for GET {FLEET_FILES_PATH}/{model_id} first, {digest} is not offered now")
        if name == KEPT_DELTA_FILE and await asyncio.to_thread((folder / name).is_file):
            return folder / name
        names = await asyncio.to_thread(_names, folder)
        if name not in names:
            raise NotFound(f"{name!r} is not a file of {model_id}")
        return names[name]

    def _entries(self, folder: Path) -> list[FileEntry]:
        entries = [self._entry(name, path) for name, path in _names(folder).items()]
        if len(self._hashes) > _MOST_HASHES:  # versions that are pushed come and go
            with self._lock:
                self._hashes = {path: known for path, known in self._hashes.items() if path.exists()}
            self._offered = {digest: there for digest, there in self._offered.items() if there.exists()}
        return entries

    def _entry(self, name: str, path: Path) -> FileEntry:
        try:
            before = stamp(path)
            with self._lock:
                known = self._hashes.get(path)
            if known is None or known[0] != before:
                with path.open("rb") as stream:
                    state = hashlib.sha256()
                    while piece := stream.read(_READ_BYTES):
                        state.update(piece)
                if stamp(path) != before:
                    raise Invalid(f"{path} changed while it was read")
                known = (before, state.hexdigest())
                with self._lock:
                    self._hashes[path] = known
        except OSError as error:
            raise Invalid(f"{path} cannot be read: {error.strerror}") from error
        return FileEntry(name=name, size_bytes=before.size_bytes, sha256=known[1])


def _names(folder: Path) -> dict[str, Path]:
    """The files that make the model, by the same rule as a push sends them. Blocks. Raises Invalid."""
    try:
        return {file.name: file.path for file in look(folder)}
    except StepserveError as error:
        raise Invalid(str(error)) from error
