"""Which files may go by age and size: those of jobs that have ended, and rotated log files."""

import os
import re
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from stepserve.paths import Layout

DAY_S = 86_400.0
_GOING = ".gone-"  # a run's folder on its way out, whoever was stopped in the middle
_JOB_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_TURNED_OVER = re.compile(r".+\.log\.\d+")


class RetentionSettings(BaseModel):
    """Null: for ever. Of runs and of logs the oldest go first, until the rest is no larger than `…_max_bytes`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runs_max_age_days: Annotated[float, Field(gt=0)] | None = None
    runs_max_bytes: Annotated[int, Field(ge=0)] | None = None
    logs_max_age_days: Annotated[float, Field(gt=0)] | None = None
    logs_max_bytes: Annotated[int, Field(ge=0)] | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """Something on the disk. `may_go` is false for what somebody needs still; it counts for the size all the same."""

    kind: Literal["run", "log"]
    path: Path
    size_bytes: int
    modified_s: float
    may_go: bool


def plan(kept: Iterable[Kept], max_age_days: float | None, max_bytes: int | None, now_s: float) -> list[Kept]:
    """What goes, oldest first."""
    oldest_first = sorted(kept, key=lambda one: one.modified_s)
    total_bytes = sum(one.size_bytes for one in oldest_first)
    going = []
    for one in oldest_first:
        too_old = max_age_days is not None and now_s - one.modified_s > max_age_days * DAY_S
        too_much = max_bytes is not None and total_bytes > max_bytes
        if one.may_go and (too_old or too_much):
            going.append(one)
            total_bytes -= one.size_bytes
    return going


def what_goes(layout: Layout, settings: RetentionSettings, finished: set[str], now_s: float) -> list[Kept]:
    """`finished`: the jobs whose files nobody needs, as `finished_jobs` tells them. Reads the disk, changes nothing."""
    runs = plan(_runs(layout.runs, finished), settings.runs_max_age_days, settings.runs_max_bytes, now_s)
    return runs + plan(_logs(layout.logs), settings.logs_max_age_days, settings.logs_max_bytes, now_s)


def finished_jobs(database: Path) -> set[str]:
    """Ids of the jobs that have ended and of whose shards a trainer has acknowledged all. Raises sqlite3.Error.

    Without promotions that are decided, which are kept for ever with what they were decided by, and without those that
    an open job names: a promotion its baseline, a data generation the eval whose failures it reads.
    """
    with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        ended = connection.execute(
            "SELECT id FROM jobs WHERE status IN ('done', 'failed', 'cancelled')"
            " AND NOT (type = 'promotion' AND status = 'done')"
        )
        finished = {str(job_id) for (job_id,) in ended}
        wanted = connection.execute("SELECT job_id FROM shards WHERE state != 'published' OR acknowledged_at IS NULL")
        open_jobs = connection.execute("SELECT config FROM jobs WHERE status IN ('pending', 'running')")
        named = {name for (config,) in open_jobs for name in _JOB_ID.findall(str(config))}
        return finished - {str(job_id) for (job_id,) in wanted} - named


def remove(one: Kept) -> None:
    """A run's folder disappears at once and is emptied then. Raises OSError."""
    if one.kind == "log":
        one.path.unlink(missing_ok=True)
        return
    going = one.path.with_name(f"{_GOING}{one.path.name}")
    with suppress(FileNotFoundError):
        one.path.rename(going)
        shutil.rmtree(going)


def _runs(folder: Path, finished: set[str]) -> list[Kept]:
    """One for each folder runs/<type>/<job_id>."""
    found = []
    for run in folder.glob("*/*"):
        if run.is_symlink() or not run.is_dir():
            continue
        size, modified = _measured(run)
        left_over = run.name.startswith(_GOING)
        found.append(Kept("run", run, size, 0.0 if left_over else modified, left_over or run.name in finished))
    return found


def _logs(folder: Path) -> list[Kept]:
    """The files in use count for the size, and stay."""
    found = []
    for file in folder.glob("*.log*"):
        with suppress(FileNotFoundError):
            stat = file.stat()
            may_go = _TURNED_OVER.fullmatch(file.name) is not None
            found.append(Kept("log", file, stat.st_size, stat.st_mtime, may_go))
    return found


def _measured(folder: Path) -> tuple[int, float]:
    """Bytes in all and the time of the youngest change, in and below the folder."""
    total, newest = 0, 0.0
    for root, _, names in os.walk(folder):
        for path in (Path(root), *(Path(root, name) for name in names)):
            with suppress(FileNotFoundError):
                stat = path.lstat()
                newest = max(newest, stat.st_mtime)
                total += stat.st_size if path.name in names else 0
    return total, newest
