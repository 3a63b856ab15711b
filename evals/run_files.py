"""The JSON files of a run: there whole, or not there."""

import json
from pathlib import Path
from typing import Any

from stepserve.durable import write_whole

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.json"


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Durably, in one step (stepserve.durable). Blocks; raises OSError."""
    write_whole(path, json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """None when there is no such file. Blocks."""
    try:
        value: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return value
