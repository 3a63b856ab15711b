"""The same rows as Parquet, for readers that like columns."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from stepserve.durable import written_aside

_GROUP_ROWS = 1000  # readers take a group at a time, and so does the writer


def is_available() -> bool:
    return find_spec("pyarrow") is not None


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    """Durably, in one step (stepserve.durable), a group of rows at a time. Blocks; raises OSError."""
    import pyarrow as pa  # noqa: PLC0415 - slow to import, and few jobs write it
    import pyarrow.parquet as pq  # noqa: PLC0415 - likewise

    first = pa.Table.from_pylist(rows[:_GROUP_ROWS])
    with written_aside(path) as aside, pq.ParquetWriter(aside, first.schema, compression="zstd") as writer:
        writer.write_table(first)
        for start in range(_GROUP_ROWS, len(rows), _GROUP_ROWS):
            writer.write_table(pa.Table.from_pylist(rows[start : start + _GROUP_ROWS], schema=first.schema))
