"""JSON files of a checkpoint. A stranger may have written them, and they are read whole, so never more than a bound."""

import json
import os
from pathlib import Path
from typing import Any, Final

from control.errors import Invalid

MOST_BYTES: Final = 16 * 1024 * 1024
MOST_INDEX_BYTES: Final = 64 * 1024 * 1024
"""Of the list of all tensors: a model of a trillion parameters has some 15 MB."""


def read_json(file: Path, most_bytes: int = MOST_BYTES) -> Any:
    """Blocks. Raises Invalid naming the file."""
    try:
        return json.loads(_content(file, most_bytes))
    except OSError as error:
        raise Invalid(f"{file.name} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise Invalid(f"{file.name} is not valid JSON: {error}") from error


def read_object(file: Path, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """Blocks. Raises Invalid naming the file."""
    value = read_json(file, most_bytes)
    if not isinstance(value, dict):
        raise Invalid(f"{file.name} does not contain a JSON object")
    return value


def json_if_any(file: Path, most_bytes: int = MOST_BYTES) -> Any:
    """None for what is not there, is another's (a mounted disk's `lost+found`), too long, or no JSON. Blocks."""
    try:
        return read_json(file, most_bytes)
    except Invalid:
        return None


def _content(file: Path, most_bytes: int) -> bytes:
    """Raises OSError, Invalid. Waits for nobody: a pipe in the place of a file is empty."""
    with open(file, "rb", opener=_without_waiting) as stream:
        content = stream.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise Invalid(f"{file.name} is longer than {most_bytes} bytes")
    return content


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
