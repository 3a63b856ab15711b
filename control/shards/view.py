"""A shard as the API shows it, and where its file is."""

import os
from datetime import datetime
from pathlib import Path
from typing import Any

from control.clock import iso
from control.database.tables import ShardRow
from control.errors import NotFound
from control.shards.inbox import status_of
from stepserve.paths import Layout

JSONL, PARQUET = ".jsonl", ".parquet"


def relative_name(row: ShardRow, layout: Layout) -> str:
    """As seen from train_shards_out: the bare name for what lies in it."""
    return os.path.relpath(layout.base / row.path, layout.shards)


def show(row: ShardRow, now: datetime) -> dict[str, Any]:
    return {
        "name": row.name,
        "path": row.path,
        "url": f"/shards/{row.name}",
        "job_id": row.job_id,
        "status": status_of(row, now),
        "rows": row.rows,
        "size_bytes": row.size_bytes,
        "sha256": row.sha256,
        "published_at": iso(row.published_at),
        "claimed_by": row.claimed_by,
        "claimed_until": iso(row.claimed_until),
        "claims": row.claims,
        "refusal": row.refusal,
        "acknowledged_at": iso(row.acknowledged_at),
    }


def parquet_of(row: ShardRow, layout: Layout) -> Path:
    """The same rows in columns, beside the shard where its job was asked for them. Blocks. Raises NotFound."""
    path = (layout.base / row.path).with_suffix(PARQUET)
    if not path.is_file():
        raise NotFound(f"{row.name} has no Parquet file: its job was made without `parquet`, or it was removed")
    return path


def file_of(row: ShardRow, layout: Layout) -> Path:
    """Where its bytes are: the published file, or the copy its run keeps when a trainer took that away. Blocks.

    Raises NotFound.
    """
    kept = layout.runs / "data_gen" / row.job_id / f"shard_{row.ordinal:03d}.jsonl"
    for path in (layout.base / row.path, kept):
        if path.is_file():
            return path
    raise NotFound(f"the file of {row.name} was removed")
