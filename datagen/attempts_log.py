"""attempts.jsonl: one line an attempt, with everything it brought. What is in it is done; all else is done again."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from stepserve.jobs.jsonl_log import JsonlLog

LOG_FILE = "attempts.jsonl"


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


def open_attempts(path: Path) -> JsonlLog[AttemptLine]:
    return JsonlLog(path, _encode, AttemptLine.model_validate_json)


def _encode(line: AttemptLine) -> bytes:
    return json.dumps(line.model_dump(), ensure_ascii=False, separators=(",", ":")).encode()
