"""The lines of a batch's input file: which requests they ask for."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from control.errors import Invalid
from stepserve.sequences import Sequences, sequences_of

Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"]
ENDPOINTS: tuple[str, ...] = get_args(Endpoint)
MAX_REQUESTS = 1_000_000
_MAX_LINE_BYTES = 32 * 1024 * 1024
_LONGEST_CUSTOM_ID = 512
_LONGEST_NAME = 512


@dataclass(frozen=True, slots=True)
class Line:
    """`number` counts the file's lines from 1."""

    number: int
    custom_id: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Facts:
    requests: int
    digest: str


def scan(path: Path, endpoint: str, max_sequences: int) -> Facts:
    """Reads the whole file once. Raises Invalid naming the line and what is wrong with it. Blocks.

    `max_sequences` is `limits.max_sequences_per_request`.
    """
    digest = hashlib.sha256()
    models: set[str] = set()
    seen: set[str] = set()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            digest.update(chunk)
    for line in read(path, endpoint):
        if line.custom_id in seen:
            raise Invalid(f"input_file_id: line {line.number}: custom_id {line.custom_id!r} was used before")
        seen.add(line.custom_id)
        if (refusal := _sequences(line, endpoint).too_many(max_sequences)) is not None:
            field, reason = refusal
            raise Invalid(f"input_file_id: line {line.number}: body.{field}: {reason}")
        models.add(_model(line))
        if len(models) > 1:
            named = " and ".join(repr(name) for name in sorted(models))
            raise Invalid(f"input_file_id: line {line.number}: a batch asks one model, this one {named}")
        if len(seen) > MAX_REQUESTS:
            raise Invalid(f"input_file_id: more than {MAX_REQUESTS} requests")
    if not seen:
        raise Invalid("input_file_id: the file has no requests")
    return Facts(len(seen), f"sha256:{digest.hexdigest()}")


def model_of(path: Path, endpoint: str) -> str:
    """The model that the first request names; `scan` sees to it that all name the same. Raises Invalid. Blocks."""
    for line in read(path, endpoint):
        return _model(line)
    raise Invalid("input_file_id: the file has no requests")


def read(path: Path, endpoint: str) -> Iterator[Line]:
    """The requests in the file's order; blank lines are passed over. Raises Invalid. Blocks a little at each step."""
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(_MAX_LINE_BYTES + 1):
            number += 1
            if len(raw) > _MAX_LINE_BYTES:
                raise Invalid(f"input_file_id: line {number}: longer than {_MAX_LINE_BYTES} bytes")
            if raw.strip():
                yield _parsed(raw, number, endpoint)


def _parsed(raw: bytes, number: int, endpoint: str) -> Line:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise Invalid(f"input_file_id: line {number}: no valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise Invalid(f"input_file_id: line {number}: not a JSON object")
    custom_id, body = content.get("custom_id"), content.get("body")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= _LONGEST_CUSTOM_ID:
        raise Invalid(
            f"input_file_id: line {number}: custom_id: text of 1 to {_LONGEST_CUSTOM_ID} characters is needed"
        )
    if content.get("method") != "POST":
        raise Invalid(f"input_file_id: line {number}: method: only POST is there")
    if content.get("url") != endpoint:
        url = str(content.get("url"))[:100]
        raise Invalid(f"input_file_id: line {number}: url: the batch's endpoint is {endpoint}, not {url!r}")
    if not isinstance(body, dict):
        raise Invalid(f"input_file_id: line {number}: body: an object is needed")
    if body.get("stream"):
        raise Invalid(f"input_file_id: line {number}: body.stream: a batch cannot stream")
    return Line(number, custom_id, body)


def _sequences(line: Line, endpoint: str) -> Sequences:
    body = line.body
    answers = {name: body.get(name) for name in ("n", "best_of")}
    texts = body.get("input") if endpoint == "/v1/embeddings" else None
    return sequences_of(answers, body.get("prompt"), body.get("prompt_embeds"), texts)


def _model(line: Line) -> str:
    name = line.body.get("model")
    if not isinstance(name, str) or not name:
        raise Invalid(f"input_file_id: line {line.number}: body.model: is missing")
    if len(name) > _LONGEST_NAME:
        raise Invalid(f"input_file_id: line {line.number}: body.model: has more than {_LONGEST_NAME} characters")
    return name
