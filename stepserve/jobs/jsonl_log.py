"""An append-only file of one JSON record a line that a later attempt recovers after a crash."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

from stepserve.durable import sync_open, written_aside

_log = logging.getLogger(__name__)

Record = TypeVar("Record")
Encode = Callable[[Record], bytes]
Decode = Callable[[bytes], Record]
"""Of one line. Raises ValueError (pydantic's ValidationError is one) for what is not a whole record."""


class JsonlLog(Generic[Record]):
    """One writer at a time; every method blocks for a file operation and raises OSError.

    `encode` returns a line without its end, which may not contain one.
    """

    def __init__(self, path: Path, encode: Encode[Record], decode: Decode[Record]) -> None:
        self._path = path
        self._encode = encode
        self._decode = decode
        self._file = path.open("a+b", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def recover(self) -> Iterator[Record]:
        """Yields the whole records from the start, then cuts off everything after them (a line torn by a crash)."""
        whole_bytes = 0
        with self._path.open("rb") as file:
            for line in file:
                try:
                    record = _decoded(line, self._decode)
                except ValueError:
                    break
                whole_bytes += len(line)
                yield record
        size_bytes = self._path.stat().st_size
        if size_bytes != whole_bytes:
            _log.warning("%s: cut off %d bytes after the last whole line", self._path, size_bytes - whole_bytes)
            self._file.truncate(whole_bytes)

    def keep_only(self, wanted: Callable[[Record], bool]) -> None:
        """Removes the other records; the file is the old one or the new one, whatever happens."""
        with written_aside(self._path) as aside, aside.open("wb") as file:
            for record in self.recover():
                if wanted(record):
                    file.write(self._encode(record) + b"\n")
        self._file.close()
        self._file = self._path.open("a+b", buffering=0)

    def append(self, records: Iterable[Record]) -> None:
        """All of them or, when the disk refuses (OSError), none. A process that dies later has lost nothing of it."""
        content = b"".join(self._encode(record) + b"\n" for record in records)
        before_bytes = self._file.seek(0, os.SEEK_END)
        try:
            _write_all(self._file.fileno(), content)
        except OSError:
            with suppress(OSError):  # a torn line: the next attempt cuts it off
                self._file.truncate(before_bytes)
            raise

    def sync(self) -> None:
        """Returns when everything appended would outlive a loss of power."""
        sync_open(self._file)


def whole_records(path: Path, decode: Decode[Record]) -> Iterator[Record]:
    """Reads a log that nobody writes any more; lines that are not whole records are passed over.

    Raises FileNotFoundError.
    """
    with path.open("rb") as file:
        for line in file:
            with suppress(ValueError):
                yield _decoded(line, decode)


def _decoded(line: bytes, decode: Decode[Record]) -> Record:
    if not line.endswith(b"\n"):
        raise ValueError("the line has no end")
    return decode(line)


def _write_all(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
