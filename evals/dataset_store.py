"""The datasets folder as the API shows it: what lies there, and how a file gets there whole or not at all."""

import asyncio
import hashlib
import re
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO

from evals import dataset_versions
from evals.datasets import SUFFIXES, check_lines, digest_of, open_dataset, resolve_dataset, scan_dataset
from evals.errors import DatasetBroken, DatasetMissing, EvalError
from stepserve.durable import put_in_place, sync_open
from stepserve.full_disk import is_disk_full
from stepserve.jobs.errors import Conflict, Invalid, NoSpace, NotFound

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_TORN = re.compile(rf"\.{_NAME.pattern}\.[0-9a-f]{{8}}\.part")
_MOST_LISTED = 1000
_MOST_KNOWN = 10_000
_LISTING_WAITS_S = 5.0
_SCANS_AT_ONCE = 2
_FORGOTTEN_AFTER_S = 86_400.0
_WRITE_BYTES = 1024 * 1024

Facts = dict[str, Any]
_Version = tuple[str, int, int, int]


class FileDatasetStore:
    """Implements stepserve.jobs.eval_ports.DatasetStore. Caches scans for as long as the file is the same."""

    def __init__(self) -> None:
        self._known: dict[_Version, Facts] = {}
        self._scans: dict[_Version, asyncio.Task[Facts]] = {}
        self._free = asyncio.Semaphore(_SCANS_AT_ONCE)  # large files must not take every thread

    async def listing(self, datasets_dir: Path) -> list[Facts]:
        """By name. Files that take longer to read than the listing waits are shown as `scanning`, without a count."""
        paths = await asyncio.to_thread(_dataset_files, datasets_dir)
        waiting = [asyncio.ensure_future(self._facts(path, datasets_dir)) for path in paths]
        if waiting:
            await asyncio.wait(waiting, timeout=_LISTING_WAITS_S)
        shown = []
        for path, task in zip(paths, waiting, strict=True):
            try:
                shown.append(task.result() if task.done() else _unread(path, datasets_dir))
            except EvalError:  # it went away meanwhile
                continue
        return shown

    async def facts(self, name: str, datasets_dir: Path) -> Facts:
        """Of one file, however long it takes. Raises NotFound, Invalid."""
        return await self._facts(await asyncio.to_thread(_resolved, name, datasets_dir), datasets_dir)

    async def versions(self, name: str, datasets_dir: Path) -> tuple[Facts, list[Facts]]:
        """The file's facts, and the contents that it has had, newest first. Raises NotFound, Invalid."""
        facts = await self.facts(name, datasets_dir)
        return facts, await asyncio.to_thread(dataset_versions.versions, str(facts["name"]), datasets_dir)

    async def put(
        self, name: str, body: AsyncIterator[bytes], datasets_dir: Path, *, replace: bool, digest: str | None
    ) -> tuple[Facts, bool]:
        """Takes a file in, in one step for whoever looks; the same content again changes nothing. True: it is new.

        Raises Invalid (a name, a line, another digest), Conflict (other content is there, and not `replace`), NoSpace.
        """
        suffix = next((suffix for suffix in reversed(SUFFIXES) if name.endswith(suffix)), None)
        if suffix is None or not _NAME.fullmatch(name):
            raise Invalid(f"name: {name!r} must be letters, digits, . _ - and end with {' or '.join(SUFFIXES)}")
        target = datasets_dir / name
        aside = datasets_dir / f".{name}.{secrets.token_hex(4)}.part"
        await asyncio.to_thread(_forget_torn, datasets_dir)
        try:
            found = await _write(aside, body)
            if digest is not None and digest.removeprefix("sha256:").lower() != found.removeprefix("sha256:"):
                raise Invalid(f"digest: the body that came is {found}, not {digest}")
            await asyncio.to_thread(_check, aside, name, suffix)
            existed = await asyncio.to_thread(_digest_there, target)
            if existed == found:
                return await self.facts(name, datasets_dir), False
            if existed is not None and not replace:
                raise Conflict(f"{name} is there with other content ({existed}); ?replace=true puts this in its place")
            await asyncio.to_thread(put_in_place, aside, target)
        except OSError as error:
            if is_disk_full(error):
                raise NoSpace(f"{name} does not fit on the disk of the datasets folder") from error
            raise Invalid(f"name: {name} cannot be written: {error.strerror}") from error
        finally:
            aside.unlink(missing_ok=True)
        return await self.facts(name, datasets_dir), True

    async def find(self, name: str, datasets_dir: Path) -> Path:
        """The file, or link to one, that is meant. Raises NotFound, Invalid."""
        return await asyncio.to_thread(_find, name, datasets_dir)

    async def remove(self, path: Path) -> None:
        """What `find` found; the contents that it had stay known. Raises NotFound when it is gone, Invalid."""
        try:
            await asyncio.to_thread(path.unlink)
        except FileNotFoundError as error:
            raise NotFound(f"name: {path.name} is gone already") from error
        except OSError as error:
            raise Invalid(f"name: {path.name} cannot be removed: {error.strerror}") from error

    async def _facts(self, path: Path, datasets_dir: Path) -> Facts:
        version = await asyncio.to_thread(_version, path)
        if version in self._known:
            return self._known[version]
        if version not in self._scans:
            self._scans[version] = asyncio.create_task(self._scan(path, datasets_dir))
            self._scans[version].add_done_callback(lambda task: self._remember(version, task))
        return await asyncio.shield(self._scans[version])

    async def _scan(self, path: Path, datasets_dir: Path) -> Facts:
        async with self._free:
            return await asyncio.to_thread(_scan, path, datasets_dir)

    def _remember(self, version: _Version, task: asyncio.Task[Facts]) -> None:
        del self._scans[version]
        if not task.cancelled() and task.exception() is None:
            while len(self._known) >= _MOST_KNOWN:
                del self._known[next(iter(self._known))]
            self._known[version] = task.result()


def _resolved(name: str, datasets_dir: Path) -> Path:
    """Raises NotFound, Invalid."""
    try:
        return resolve_dataset(name, datasets_dir)
    except DatasetMissing as error:
        raise NotFound(str(error)) from error
    except EvalError as error:
        raise Invalid(f"name: {error}") from error


def _find(name: str, datasets_dir: Path) -> Path:
    """Blocks. The server's own files in there are not data sets. Raises NotFound, Invalid."""
    root, path = datasets_dir.resolve(), _resolved(name, datasets_dir)
    entries = (root / f"{name}{suffix}" for suffix in ("", *SUFFIXES))
    entry = next((entry for entry in entries if entry.is_file()), path)
    if any(part.startswith(".") for part in (*path.relative_to(root).parts, entry.name)):
        raise NotFound(f"there is no data set {name!r}: see GET /datasets")
    return entry


def _scan(path: Path, datasets_dir: Path) -> Facts:
    """Of the whole file. One that no eval could use as it is says why in `error`."""
    shown = _unread(path, datasets_dir) | {"scanning": False}
    try:
        shown |= scan_dataset(path, datasets_dir, None).model_dump(mode="json")
    except DatasetBroken as error:
        with open_dataset(path) as stream:
            shown |= {"digest": digest_of(stream), "error": str(error)}
    with open_dataset(path) as stream:
        if digest_of(stream) == shown["digest"]:  # else it was replaced meanwhile, and is looked at again
            dataset_versions.note(stream, str(shown["name"]), str(shown["digest"]), datasets_dir)
    return shown


def _unread(path: Path, datasets_dir: Path) -> Facts:
    return {
        "name": str(path.relative_to(datasets_dir.resolve())),
        "format": None,
        "samples": None,
        "size_bytes": path.stat().st_size if path.exists() else None,
        "digest": None,
        "ignored_keys": [],
        "error": None,
        "scanning": True,
    }


def _dataset_files(datasets_dir: Path) -> list[Path]:
    found = set()
    for suffix in SUFFIXES:
        for path in datasets_dir.rglob(f"*{suffix}"):
            if any(part.startswith(".") for part in path.relative_to(datasets_dir).parts):
                continue
            try:
                found.add(resolve_dataset(str(path), datasets_dir))
            except EvalError:  # a link out of the folder, a pipe
                continue
    return sorted(found)[:_MOST_LISTED]


def _version(path: Path) -> _Version:
    try:
        stat = path.stat()
    except OSError as error:
        raise DatasetMissing(path.name, ()) from error
    return str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns


async def _write(path: Path, body: AsyncIterator[bytes]) -> str:
    """Writes and fsyncs; the digest of what was written."""
    digest = hashlib.sha256()

    def write(file: BinaryIO, data: bytes) -> None:
        digest.update(data)
        file.write(data)

    with await asyncio.to_thread(path.open, "xb") as file:
        kept = bytearray()
        async for chunk in body:
            kept += chunk
            if len(kept) >= _WRITE_BYTES:
                await asyncio.to_thread(write, file, bytes(kept))
                kept.clear()
        await asyncio.to_thread(write, file, bytes(kept))
        await asyncio.to_thread(sync_open, file)
    return f"sha256:{digest.hexdigest()}"


def _check(aside: Path, name: str, suffix: str) -> None:
    """Every line must be a JSON object; that it is of a known format is not asked, a field_map may name its keys."""
    try:
        with open_dataset(aside) as stream:
            packed = check_lines(stream, name)
    except DatasetBroken as error:
        raise Invalid(str(error)) from error
    if packed != suffix.endswith(".gz"):
        raise Invalid(f"name: {name}, but the body is {'gzip' if packed else 'no gzip'}")


def _digest_there(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            return digest_of(stream)
    except FileNotFoundError:
        return None


def _forget_torn(datasets_dir: Path) -> None:
    """What uploads left behind whose server was killed."""
    for path in datasets_dir.glob(".*.part"):
        if _TORN.fullmatch(path.name) and time.time() - path.stat().st_mtime > _FORGOTTEN_AFTER_S:
            path.unlink(missing_ok=True)
