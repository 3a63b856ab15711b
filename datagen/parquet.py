"""The same rows as Parquet, for readers that like columns."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stepserve.durable import written_aside


def is_available() -> bool:
    return find_spec("pyarrow") is not None


def write_parquet(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Durably, in one step (stepserve.durable). Blocks; raises OSError."""
    import pyarrow as pa  # noqa: PLC0415 - slow to import, and few jobs write it
    import pyarrow.parquet as pq  # noqa: PLC0415 - likewise

    with written_aside(path) as aside:
        pq.write_table(pa.Table.from_pylist(list(rows)), aside, compression="zstd")
