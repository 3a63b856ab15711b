"""output.jsonl and errors.jsonl of a run: a line an answered request, appended as answers come."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from control.batches.files import OUTPUT_FILES
from control.batches.requests import Line
from stepserve.contract import AskOutput
from stepserve.jobs.jsonl_log import JsonlLog

_Answer = dict[str, Any]


class Answers:
    """One writer. `answered` are the custom ids of earlier attempts; `completed` and `failed` count all of them."""

    def __init__(self, run_dir: Path, job_id: str) -> None:
        """Blocks; cuts off what a crash has left of a last line."""
        self._job_id = job_id
        self._output = _opened(run_dir / OUTPUT_FILES["output"])
        self._errors = _opened(run_dir / OUTPUT_FILES["errors"])
        completed, failed = _custom_ids(self._output), _custom_ids(self._errors)
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
        output: list[_Answer] = []
        errors: list[_Answer] = []
        for line, answer in answered:
            succeeded = answer.status == 200
            (output if succeeded else errors).append(self._shown(line, answer))
        self._output.append(output)
        self.completed += len(output)
        self._errors.append(errors)
        self.failed += len(errors)

    def sync(self) -> None:
        """As JsonlLog.sync."""
        self._output.sync()
        self._errors.sync()

    def _shown(self, line: Line, answer: AskOutput) -> _Answer:
        request_id = hashlib.sha256(f"{self._job_id}/{line.number}".encode()).hexdigest()[:24]
        return {
            "id": f"batch_req_{request_id}",
            "custom_id": line.custom_id,
            "response": {"status_code": answer.status, "request_id": f"req_{request_id}", "body": answer.body},
            "error": None,
        }


def _opened(path: Path) -> JsonlLog[_Answer]:
    return JsonlLog(path, _encode, _decode)


def _encode(answer: _Answer) -> bytes:
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _decode(line: bytes) -> _Answer:
    answer = json.loads(line)
    if isinstance(answer, dict) and isinstance(answer.get("custom_id"), str):
        return answer
    raise ValueError("not an answer: it has no custom_id")


def _custom_ids(log: JsonlLog[_Answer]) -> set[str]:
    return {answer["custom_id"] for answer in log.recover()}
