"""output.jsonl and errors.jsonl of a run: a line an answered request, appended as answers come."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from control.batches.files import OUTPUT_FILES
from control.batches.requests import Line
from stepserve.contract import AskOutput


class Answers:
    """One writer. `answered` are the custom ids of earlier attempts; `completed` and `failed` count all of them."""

    def __init__(self, run_dir: Path, job_id: str) -> None:
        """Blocks; cuts off what a crash has left of a last line."""
        self._job_id = job_id
        self._output = (run_dir / OUTPUT_FILES["output"]).open("a+b")
        self._errors = (run_dir / OUTPUT_FILES["errors"]).open("a+b")
        completed, failed = _take_up(self._output), _take_up(self._errors)
        self.answered = completed | failed
        self.completed, self.failed = len(completed), len(failed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._output.close()
        self._errors.close()

    def append(self, answered: Iterable[tuple[Line, AskOutput]]) -> None:
        """Blocks for a short write a file."""
        output: list[bytes] = []
        errors: list[bytes] = []
        for line, answer in answered:
            succeeded = answer.status == 200
            (output if succeeded else errors).append(self._encoded(line, answer))
            self.completed += succeeded
            self.failed += not succeeded
        for file, lines in ((self._output, output), (self._errors, errors)):
            if lines:
                file.write(b"".join(lines))
                file.flush()

    def sync(self) -> None:
        os.fsync(self._output.fileno())
        os.fsync(self._errors.fileno())

    def _encoded(self, line: Line, answer: AskOutput) -> bytes:
        request_id = hashlib.sha256(f"{self._job_id}/{line.number}".encode()).hexdigest()[:24]
        content: dict[str, Any] = {
            "id": f"batch_req_{request_id}",
            "custom_id": line.custom_id,
            "response": {"status_code": answer.status, "request_id": f"req_{request_id}", "body": answer.body},
            "error": None,
        }
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"


def _take_up(file: Any) -> set[str]:
    """The custom ids of the whole lines; cuts off the rest."""
    file.seek(0)
    whole_bytes, ids = 0, set()
    for raw in file:
        try:
            if not raw.endswith(b"\n"):
                break
            ids.add(json.loads(raw)["custom_id"])
        except (ValueError, KeyError, TypeError):
            break
        whole_bytes += len(raw)
    file.truncate(whole_bytes)
    file.seek(0, os.SEEK_END)
    return ids
