"""The same rows as Parquet, for readers that like columns."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any


def is_available() -> bool:
    return find_spec("pyarrow") is not None


def write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Written aside, fsynced, renamed. Blocks; raises OSError."""
    import pyarrow as pa  # noqa: PLC0415 - slow to import, and few jobs write it
    import pyarrow.parquet as pq  # noqa: PLC0415 - likewise

    aside = path.with_name(f".{path.name}.part")
    try:
        pq.write_table(pa.Table.from_pylist(list(rows)), aside, compression="zstd")
        with aside.open("rb") as file:
            os.fsync(file.fileno())
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    aside.replace(path)
