"""One checkpoint on its way here: its folder below checkpoints/, and the books of its files."""

import json
import os
import shutil
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from control.checkpoints.digest_cache import DigestCache, stamp
from control.errors import Invalid
from control.registration.uploads.known_chunks import Place, copy_chunk, sha256_of
from control.registration.uploads.request import check_file_name
from control.registration.uploads.staged_file import Chunk, StagedFile, chunks_of
from stepserve.durable import sync, write_whole
from stepserve.own_files import is_own, open_own, remove_links
from stepserve.shard import BadShard, read_tensors

_BOOK = "upload.json"
_BOOK_ASIDE = f".{_BOOK}"
_FILES = "files"
_BEFORE = "before"
_OURS = frozenset({_BOOK, _BOOK_ASIDE, _FILES, _BEFORE})


@dataclass(slots=True)
class Upload:
    """`name` is the client's for what it uploads, None for one that is sent file by file with no word before.

    `expected` are the sizes of all files, where the client has said them. Methods that touch the disk block and raise
    OSError. Of several pieces that end at the same time each saves the book, in a thread of its own.
    """

    model_id: str
    folder: Path
    name: str | None = None
    expected: dict[str, int] = field(default_factory=dict)
    files: dict[str, StagedFile] = field(default_factory=dict)
    known: Mapping[str, Place] | None = None
    touched_s: float = field(default_factory=time.monotonic)
    _book: threading.Lock = field(default_factory=threading.Lock)
    _discarded: bool = False

    @property
    def files_folder(self) -> Path:
        return self.folder / _FILES

    @property
    def busy(self) -> bool:
        return any(file.reserved for file in self.files.values())

    @property
    def before(self) -> Path:
        """Where a file waits that was declared anew."""
        return self.folder / _BEFORE

    def path_of(self, name: str) -> Path:
        return self.files_folder / name

    def show(self) -> dict[str, Any]:
        names = sorted({*self.expected, *self.files})
        return {"id": self.model_id, "upload": self.name, "files": [self.show_file(name) for name in names]}

    def show_file(self, name: str) -> dict[str, Any]:
        file = self.files.get(name)
        if file is None:
            return {"name": name, "size_bytes": self.expected[name], "received_bytes": 0, "complete": False}
        shown = {"name": name, "size_bytes": file.size_bytes, "received_bytes": file.received_bytes}
        return shown | {"complete": file.complete, "sha256": file.chunks[0].sha256 if len(file.chunks) == 1 else None}

    def check_whole(self) -> None:
        """Raises Invalid naming the first file that is not whole."""
        for name, size_bytes in self.expected.items():
            if name not in self.files:
                raise Invalid(f"the upload of {self.model_id} is not whole: {name} ({size_bytes} bytes) is missing")
        for file in self.files.values():
            if not file.complete:
                left = file.size_bytes - file.received_bytes
                raise Invalid(f"the upload of {self.model_id} is not whole: {left} bytes of {file.name} are missing")

    def add(self, name: str, size_bytes: int, chunks: list[Chunk]) -> StagedFile:
        """A file with no bytes yet, its place on disk made."""
        path = self.path_of(name)
        if not (self.folder / _BOOK).exists():
            self.save()  # a folder with files and no book would be taken for somebody else's
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # a writer that was given up may hold it open still
            with path.open("xb") as stream:
                stream.truncate(size_bytes)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise Invalid(f"{name} is the name of a folder and of a file of this upload") from error
        self.files[name] = StagedFile(name, size_bytes, chunks)
        if not size_bytes:
            self.files[name].chunks = []
        self.save()
        return self.files[name]

    def forget_links(self) -> None:
        """A file in whose place a link was put, or nothing is, begins anew; what a link leads to stays as it is."""
        if self.files_folder.is_symlink():
            self.files_folder.unlink()
        remove_links(self.files_folder)
        for name, file in list(self.files.items()):
            if not self.path_of(name).is_file():
                self.add(name, file.size_bytes, file.chunks)

    def drop(self, name: str) -> None:
        self.files.pop(name, None)
        self.path_of(name).unlink(missing_ok=True)

    def fill_from(self, name: str, places: Mapping[str, Place]) -> int:
        """Copies what lies on this disk already; how many bytes that were."""
        file, copied = self.files[name], 0
        path = self.path_of(name)
        target = open_own(path, os.O_RDWR)
        try:
            for index, chunk in enumerate(file.chunks):
                place = places.get(chunk.sha256 or "")
                if index in file.whole or place is None or place.end - place.begin != chunk.end - chunk.begin:
                    continue
                if any(begin < chunk.end and chunk.begin < end for begin, end in file.reserved):
                    continue
                assert chunk.sha256 is not None
                try:
                    good = copy_chunk(place, chunk.sha256, target, chunk.begin)
                except FileNotFoundError:
                    continue
                file.settle(index, good=good)
                copied += chunk.end - chunk.begin if good else 0
        finally:
            os.close(target)
        return copied

    def prove(self, name: str, indexes: list[int]) -> list[tuple[int, str]]:
        """Hashes those chunks as they lie on disk; the wrong ones, with the hash they have."""
        file, wrong = self.files[name], []
        source = open_own(self.path_of(name), os.O_RDONLY)
        try:
            for index in indexes:
                chunk = file.chunks[index]
                found = sha256_of(source, chunk.begin, chunk.end)
                good = chunk.sha256 is None or found == chunk.sha256
                if good and chunk.sha256 is None:
                    file.chunks[index] = Chunk(chunk.begin, chunk.end, found)
                file.settle(index, good=good)
                if not good:
                    wrong.append((index, found))
        finally:
            os.close(source)
        return wrong

    def sync(self) -> None:
        """What has arrived survives a power cut from here on."""
        folders = {self.files_folder}
        for name in self.files:
            path = self.path_of(name)
            folders.add(path.parent)
            sync(path)
        for folder in folders:
            sync(folder)

    def note_hashes(self, placed: Path, cache: DigestCache) -> None:
        """Tells the cache what is proven already, so that nothing of it is read again at `placed`."""
        for file in self.files.values():
            if file.doubtful or any(chunk.sha256 is None for chunk in file.chunks):
                continue
            path = placed / file.name
            if len(file.chunks) == 1 and not file.name.endswith(".safetensors"):
                cache.put(path, stamp(path), {"": file.chunks[0].sha256 or ""})
                continue
            spans = {(chunk.begin, chunk.end): chunk.sha256 or "" for chunk in file.chunks}
            try:
                tensors = read_tensors(path)
            except BadShard:
                continue
            if all((tensor.begin, tensor.end) in spans for tensor in tensors):
                hashes = {tensor.name: spans[tensor.begin, tensor.end] for tensor in tensors}
                cache.put(path, stamp(path), hashes)

    def save(self) -> None:
        """Writes the book aside and renames it; of a discarded upload there is none."""
        with self._book:
            if self._discarded:
                return
            self.folder.mkdir(parents=True, exist_ok=True)
            files = {
                file.name: {
                    "size_bytes": file.size_bytes,
                    "chunks": [[chunk.end - chunk.begin, chunk.sha256] for chunk in file.chunks],
                    "begun": sorted(file.prefixes.items()),
                }
                for file in list(self.files.values())
            }
            content = json.dumps({"upload": self.name, "expected": self.expected, "files": files})
            write_whole(self.folder / _BOOK, content, durable=False, aside=self.folder / _BOOK_ASIDE)

    def discard(self) -> None:
        """Removes what uploads wrote there, and nothing else that may lie in the folder."""
        with self._book:
            self._discarded = True
            forget(self.folder)

    def outstanding_bytes(self) -> int:
        """How much more the files will take up on the disk when they are whole."""
        sizes = self.expected | {file.name: file.size_bytes for file in list(self.files.values())}
        return sum(max(0, size_bytes - _allocated_bytes(self.path_of(name))) for name, size_bytes in sizes.items())


def is_foreign(folder: Path) -> bool:
    """Whether something lies there that no upload wrote: a trainer's own checkpoints, say, or a link. Blocks."""
    if not os.path.lexists(folder):
        return False
    if folder.is_symlink() or not folder.is_dir() or (folder / _FILES).is_symlink():
        return True
    names = {path.name for path in folder.iterdir()}
    return bool(names - _OURS) or (_FILES in names and _BOOK not in names)


def forget(folder: Path) -> None:
    """Removes an upload's files and its book; the folder too, unless something else is in it. Blocks."""
    if folder.is_symlink():
        return
    shutil.rmtree(folder / _FILES, ignore_errors=True)  # which follows no link
    with suppress(OSError):
        for name in _OURS - {_FILES}:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def last_change_s(folder: Path) -> float | None:
    """When anybody wrote to the upload last, in seconds since 1970; None where there is no upload. Blocks."""
    if is_foreign(folder) or not (folder / _BOOK).is_file():
        return None
    return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))


def load(folder: Path) -> Upload | None:
    """What an earlier process left in the folder, every chunk of it proven again. None: nothing of use. Blocks."""
    if is_foreign(folder):
        return None
    try:
        book = json.loads((folder / _BOOK).read_bytes())
        upload = Upload(folder.name, folder, book["upload"], dict(book["expected"]))
        for name in (*book["files"], *book["expected"]):
            check_file_name(name)
        for name, told in book["files"].items():
            chunks = chunks_of((size, sha) for size, sha in told["chunks"])
            upload.files[name] = StagedFile(name, told["size_bytes"], chunks, prefixes=dict(told["begun"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    remove_links(upload.files_folder)
    for name, file in upload.files.items():
        path = upload.path_of(name)
        if not is_own(path) or path.stat().st_size != file.size_bytes:
            upload.add(name, file.size_bytes, file.chunks)
            continue
        written = [i for i, chunk in enumerate(file.chunks) if i not in file.prefixes and _written(path, chunk)]
        upload.prove(name, [i for i in written if file.chunks[i].sha256 is not None])
    return upload


def _written(path: Path, chunk: Chunk) -> bool:
    """False for what is a hole in the file: nothing was ever written there."""
    with path.open("rb") as stream:
        try:
            return os.lseek(stream.fileno(), chunk.begin, os.SEEK_DATA) < chunk.end
        except OSError:
            return False


def _allocated_bytes(path: Path) -> int:
    try:
        return path.stat().st_blocks * 512
    except OSError:
        return 0
