"""The contents that a dataset has had: when each was first seen, and how many rows came, went and changed.

datasets/.versions/<hash of the name>/versions.jsonl has a line a version, rows.npz the rows of the last one. What is
there is noted whenever a dataset is read whole: when it is put, listed, or asked for. Nothing here stops a reader.
"""

import hashlib
import json
import logging
import threading
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path
from typing import Any

from evals.datasets import filled_lines
from evals.errors import EvalError
from evals.row_index import MOST_ROWS, RowIndex
from stepserve.durable import write_whole

log = logging.getLogger(__name__)

FOLDER = ".versions"
_KEPT = 1000
_writing = threading.Lock()


def note(stream: BufferedReader, name: str, digest: str, datasets_dir: Path) -> None:
    """`stream` has this content. Blocks; a log that cannot be written is a line in the server's log."""
    try:
        with _writing:
            _note(stream, name, digest, _folder(name, datasets_dir))
    except (OSError, ValueError, RecursionError, EvalError) as error:
        log.warning("the version %s of the dataset %s is not noted: %s", digest, name, error)


def versions(name: str, datasets_dir: Path) -> list[dict[str, Any]]:
    """Newest first. Blocks. Raises OSError."""
    return _read(_folder(name, datasets_dir))[::-1]


def _note(stream: BufferedReader, name: str, digest: str, folder: Path) -> None:
    known = _read(folder)
    if known and known[-1]["digest"] == digest:
        return
    folder.mkdir(parents=True, exist_ok=True)
    rows, index = folder / "rows.npz", RowIndex.of(raw for _, raw in filled_lines(stream, name))
    version: dict[str, Any] = {
        "digest": digest,
        "first_seen_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "size_bytes": stream.seek(0, 2),
        "rows": index if isinstance(index, int) else len(index),
        "changes": None,
    }
    if isinstance(index, int):
        version["reason"] = f"more than {MOST_ROWS} rows are counted alone"
        rows.unlink(missing_ok=True)
    else:
        before = _index_at(rows) if known else None
        if before is not None:
            changes = index.since(before)
            version["changes"] = {"added": changes.added, "removed": changes.removed, "changed": changes.changed}
        index.write(rows)
    lines = [json.dumps(one) for one in [*known, version][-_KEPT:]]
    write_whole(folder / "versions.jsonl", "\n".join(lines) + "\n")


def _index_at(path: Path) -> RowIndex | None:
    """None: none was kept, or it cannot be read any more, and what changed is not known."""
    try:
        return RowIndex.read(path)
    except (OSError, ValueError):
        return None


def _read(folder: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in (folder / "versions.jsonl").read_text().splitlines()]
    except FileNotFoundError:
        return []


def _folder(name: str, datasets_dir: Path) -> Path:
    return datasets_dir / FOLDER / hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[:24]
