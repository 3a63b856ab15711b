"""attempts.jsonl: one line an attempt, with everything it brought. What is in it is done; all else is done again."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

_log = logging.getLogger(__name__)


class AttemptLine(BaseModel):
    """`run` counts the attempts at the job, `at_s` and `busy_s` from that run's start."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attempt: int
    run: int
    at_s: float
    busy_s: float
    items: int
    engine_errors: int
    prompt_tokens: int
    completion_tokens: int
    accepted: list[dict[str, Any]]
    rejected: list[dict[str, Any]]


class AttemptsLog:
    """One writer; every method blocks for a file operation."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("a+b", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def recover(self) -> Iterator[AttemptLine]:
        """Yields the whole lines from the start, then cuts off what follows them (a line torn by a crash)."""
        whole_bytes = 0
        with self._path.open("rb") as file:
            for raw in file:
                line = _whole(raw)
                if line is None:
                    break
                whole_bytes += len(raw)
                yield line
        size_bytes = self._path.stat().st_size
        if size_bytes != whole_bytes:
            _log.warning("%s: cut off %d bytes after the last whole line", self._path, size_bytes - whole_bytes)
            self._file.truncate(whole_bytes)

    def append(self, lines: list[AttemptLine]) -> None:
        """All of them or, when the disk refuses (OSError), none."""
        content = b"".join(
            json.dumps(line.model_dump(), ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for line in lines
        )
        before_bytes = self._file.seek(0, os.SEEK_END)
        try:
            _write_all(self._file.fileno(), content)
        except OSError:
            self._file.truncate(before_bytes)
            raise

    def sync(self) -> None:
        """Returns when all that was appended would outlive a loss of power."""
        os.fsync(self._file.fileno())


def _write_all(file: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(file, rest) :]


def _whole(raw: bytes) -> AttemptLine | None:
    if not raw.endswith(b"\n"):
        return None
    try:
        return AttemptLine.model_validate_json(raw)
    except ValidationError:
        return None
