"""samples.jsonl: one line a sample, appended as answers come, and what a later attempt takes up again."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from evals.record import SampleRecord

_log = logging.getLogger(__name__)


class SamplesLog:
    """One writer; every method blocks for a file operation, `append` for one short write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("a+b")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def recover(self) -> Iterator[SampleRecord]:
        """Yields the whole records from the start, then cuts off whatever follows them (a line torn by a crash)."""
        self._file.seek(0)
        whole_bytes = 0
        for line in self._file:
            record = _whole(line)
            if record is None:
                break
            whole_bytes += len(line)
            yield record
        size_bytes = self._file.seek(0, os.SEEK_END)
        if size_bytes != whole_bytes:
            _log.warning("%s: cut off %d bytes after the last whole line", self._path, size_bytes - whole_bytes)
            self._file.truncate(whole_bytes)

    def keep_only(self, wanted: Callable[[SampleRecord], bool]) -> None:
        """The file without the other records; it is the old one or the new one, whatever happens."""
        aside = self._path.with_name(f".{self._path.name}.part")
        with aside.open("wb") as file:
            for record in self.recover():
                if wanted(record):
                    file.write(_line(record))
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self._path)
        self._file.close()
        self._file = self._path.open("a+b")

    def append(self, records: Iterable[SampleRecord]) -> None:
        """One write; a process that dies later has lost nothing of it."""
        self._file.write(b"".join(map(_line, records)))
        self._file.flush()

    def sync(self) -> None:
        """Returns when all that was appended would outlive a loss of power."""
        os.fsync(self._file.fileno())


def _line(record: SampleRecord) -> bytes:
    return record.model_dump_json(exclude_defaults=True).encode() + b"\n"


def _whole(line: bytes) -> SampleRecord | None:
    if not line.endswith(b"\n"):
        return None
    try:
        return SampleRecord.model_validate_json(line)
    except ValidationError:
        return None


def read_records(path: Path) -> Iterator[SampleRecord]:
    """The whole records of a finished run, each id once. Blocks; raises FileNotFoundError."""
    seen: set[str] = set()
    with path.open("rb") as file:
        for line in file:
            record = _whole(line)
            if record is not None and record.id not in seen:
                seen.add(record.id)
                yield record
