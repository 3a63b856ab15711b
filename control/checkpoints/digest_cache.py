"""Hashes of files already read, so that looking again costs a stat; kept over restarts in one JSON file."""

import json
import logging
import os
import threading
from dataclasses import astuple, dataclass
from pathlib import Path

from stepserve.durable import write_whole

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stamp:
    """Tells one state of a file from another; the change time catches a copy that keeps the modification time."""

    size_bytes: int
    modified_ns: int
    changed_ns: int
    inode: int


def stamp(file: Path) -> Stamp:
    """Raises OSError."""
    status = file.stat()
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


class DigestCache:
    """Safe to share between threads. An unreadable cache file is an empty cache; it is only ever a saving of time."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._entries: dict[str, tuple[Stamp, dict[str, str]]] = {}
        self._finite: dict[str, Stamp] = {}
        self._dirty = False
        if file is not None and file.is_file():
            try:
                for path, (fields, hashes, *finite) in json.loads(file.read_bytes()).items():
                    self._entries[path] = (Stamp(*fields), dict(hashes))
                    if finite == [True]:
                        self._finite[path] = self._entries[path][0]
            except (OSError, ValueError, TypeError, AttributeError) as error:
                log.warning("cannot use %s, files will be read again: %s", file, error)
                self._entries.clear()

    def get(self, file: Path, now: Stamp) -> dict[str, str] | None:
        with self._lock:
            entry = self._entries.get(str(file))
        return entry[1] if entry and entry[0] == now else None

    def is_finite(self, file: Path, now: Stamp) -> bool:
        """Whether all numbers of this file of weights were found to be finite."""
        with self._lock:
            return self._finite.get(str(file)) == now

    def put(self, file: Path, now: Stamp, hashes: dict[str, str], *, finite: bool = False) -> None:
        """`finite`: the file's numbers were looked at, and all of them are finite."""
        with self._lock:
            self._entries[str(file)] = (now, hashes)
            if finite:
                self._finite[str(file)] = now
            elif self._finite.get(str(file)) != now:
                self._finite.pop(str(file), None)
            self._dirty = True

    def save(self) -> None:
        """Writes what is new, aside and renamed; forgets files that are gone. Blocks."""
        if self._file is None:
            return
        with self._lock:
            if not self._dirty:
                return
            self._entries = {path: entry for path, entry in self._entries.items() if Path(path).exists()}
            self._finite = {path: at for path, at in self._finite.items() if path in self._entries}
            text = json.dumps(
                {path: [astuple(at), hashes, path in self._finite] for path, (at, hashes) in self._entries.items()}
            )
            aside = self._file.with_name(f".{self._file.name}.{os.getpid()}")
            try:
                write_whole(self._file, text, durable=False, aside=aside)
            except OSError as error:
                log.warning("cannot write %s: %s", self._file, error)
                return
            self._dirty = False
