"""Finished shards: each appears whole, once, under a name that is never used again.

allotted ─ written to the run's outbox, fsynced ─► staged ─ renamed to where readers look ─► published

Each arrow is written down (stepserve.jobs.ports.ShardLedger) after it was done. A crash before the first leaves a file
that is written again; between the two, a file that is in the outbox (and is moved) or not there (it was moved already,
and a trainer may have taken it away since). What was published is not touched again.
"""

import asyncio
import errno
import hashlib
import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from datagen.errors import Refused
from datagen.parquet import write_parquet
from datagen.places import SHARDS, check_target
from datagen.records import Format, formatted
from stepserve.durable import sync, write_whole
from stepserve.full_disk import is_disk_full
from stepserve.jobs.errors import BadJob, JobPaused
from stepserve.jobs.ports import ShardEntry, ShardLedger

OUTBOX = ".outbox"
_NUMBER = re.compile(r"shard_[0-9-]{10}_([0-9]{3,})\.jsonl")


@dataclass(frozen=True, slots=True)
class ShardFacts:
    """A line of the manifest. `path` is relative to the base directory."""

    name: str
    path: str
    rows: int
    size_bytes: int
    sha256: str
    parquet: str | None = None

    def shown(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ShardWriter:
    """Of one run. `folder` is relative to `base_dir`; `now` gives the day in a name."""

    ledger: ShardLedger
    base_dir: Path
    models_dir: Path
    run_dir: Path
    folder: str
    job_id: str
    format: Format
    parquet: bool
    now: Callable[[], datetime]

    async def publish(self, ordinal: int, records: Sequence[dict[str, Any]]) -> ShardFacts:
        """The job's shard of that ordinal, made of these records: the same ones however often it is called.

        Raises BadJob when the folder leads out of the base directory or to the server's, OSError, DatabaseUnavailable.
        """
        rows = [row for record in records for row in formatted(record, self.format)]
        content = b"".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n" for row in rows)
        day = self.now().date().isoformat()
        at_least = await asyncio.to_thread(self._first_free, day)
        entry = await self.ledger.allot(self.job_id, ordinal, self.folder, day, at_least)
        facts = ShardFacts(
            name=entry.name,
            path=entry.path,
            rows=len(rows),
            size_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            parquet=Path(entry.path).with_suffix(".parquet").as_posix() if self.parquet else None,
        )
        if entry.state == "allotted":
            await asyncio.to_thread(self._stage, entry, ordinal, content, rows)
            await self.ledger.stage(entry.name, rows=facts.rows, size_bytes=facts.size_bytes, sha256=facts.sha256)
        if entry.state != "published":
            await asyncio.to_thread(self._move, entry)
            await self.ledger.publish(entry.name)
        return facts

    def _first_free(self, day: str) -> int:
        """Above every number of that day that a file has: the database may be younger than the files."""
        folders = {self.base_dir / self.folder, self.base_dir / SHARDS}
        names = (path.name for folder in folders if folder.is_dir() for path in folder.glob(f"shard_{day}_*.jsonl"))
        taken = [int(found[1]) for name in names if (found := _NUMBER.fullmatch(name))]
        return max(taken, default=-1) + 1

    def _stage(self, entry: ShardEntry, ordinal: int, content: bytes, rows: list[dict[str, Any]]) -> None:
        target = self.base_dir / entry.path
        if target.is_file() and target.read_bytes() == content:
            return  # the database lost its last steps with the power: it is there already
        outbox = self.run_dir / OUTBOX
        outbox.mkdir(exist_ok=True)
        staged = outbox / entry.name
        write_whole(staged, content)
        if self.parquet:
            write_parquet(staged.with_suffix(".parquet"), rows)
        kept = self.run_dir / f"shard_{ordinal:03d}.jsonl"
        aside = outbox / f"{kept.name}.kept"
        aside.unlink(missing_ok=True)
        try:
            aside.hardlink_to(staged)
        except OSError:  # a file system without links
            shutil.copyfile(staged, aside)
        aside.replace(kept)
        sync(outbox)
        sync(self.run_dir)

    def _move(self, entry: ShardEntry) -> None:
        target = self.base_dir / entry.path
        try:
            check_target(self.base_dir, self.models_dir, self.folder)
        except Refused as error:
            raise BadJob(str(error)) from error
        target.parent.mkdir(parents=True, exist_ok=True)
        for suffix in (".parquet", ".jsonl"):
            staged = (self.run_dir / OUTBOX / entry.name).with_suffix(suffix)
            if staged.exists():
                _rename(staged, target.with_suffix(suffix))
        sync(target.parent)
        sync(self.run_dir / OUTBOX)


@contextmanager
def pausing_when_full(run_dir: Path) -> Iterator[None]:
    """A disk without room is nobody's defect: the job waits for space."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise JobPaused(
                f"the disk of {error.filename or run_dir} is full: the job goes on when there is space"
            ) from error
        raise
    except sqlite3.OperationalError as error:
        if "full" in str(error):
            raise JobPaused(f"the disk of {run_dir} is full: the job goes on when there is space") from error
        raise


def _rename(staged: Path, target: Path) -> None:
    """Also where the target is on another disk: copied aside there, so that it still appears whole."""
    try:
        staged.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        write_whole(target, staged.read_bytes())
        staged.unlink()
