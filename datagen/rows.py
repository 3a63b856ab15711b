"""Rows for prompts: JSON objects of any shape, a line each, fetched by number without the file in memory."""

import json
import os
import weakref
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from datagen.errors import Refused
from evals.datasets import MAX_LINE_BYTES, digest_of, open_dataset, resolve_dataset
from evals.errors import EvalError

Row = Mapping[str, Any]


class RowFile:
    """A JSONL file as a sequence of rows. `field` is the config's field that named it, for errors.

    It stays open: whoever removes or replaces it takes nothing from a job that works on it.
    """

    def __init__(self, field: str, path: Path) -> None:
        """Checks every line. Blocks; raises Refused naming the line."""
        self._field = field
        self._path = path
        self._starts = array("Q")
        try:
            with open_dataset(path) as stream:
                self._descriptor = os.dup(stream.fileno())
                weakref.finalize(self, os.close, self._descriptor)
                self.digest = digest_of(stream)
                stream.seek(0)
                start = 0
                for line, raw in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES + 1), b""), start=1):
                    if raw.strip():
                        self._starts.append(start)
                        self._parsed(raw, line)
                    start += len(raw)
                self._size_bytes = start
        except EvalError as error:
            raise Refused(field, str(error)) from error
        if not self._starts:
            raise Refused(field, f"{path.name} has no rows")

    @classmethod
    def in_datasets(cls, ref: str, datasets_dir: Path) -> Self:
        try:
            return cls("dataset_ref", resolve_dataset(ref, datasets_dir))
        except EvalError as error:
            raise Refused("dataset_ref", str(error)) from error

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> Row:
        start = self._starts[number]
        end = self._starts[number + 1] if number + 1 < len(self._starts) else self._size_bytes
        return self._parsed(os.pread(self._descriptor, end - start, start).split(b"\n", 1)[0], number + 1)

    def _parsed(self, raw: bytes, line: int) -> Row:
        place = f"{self._path.name}, line {line}"
        if len(raw) > MAX_LINE_BYTES:
            raise Refused(self._field, f"{place}: longer than {MAX_LINE_BYTES} bytes")
        try:
            row = json.loads(raw.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise Refused(self._field, f"{place}: no JSON: {error}") from error
        if not isinstance(row, dict):
            raise Refused(self._field, f"{place}: not a JSON object")
        return row
