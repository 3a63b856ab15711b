"""`stepserve gc` as a person runs it, on a migrated database."""

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from stepserve.paths import Layout
from tests.integration.forked import Ended
from tests.integration.programs import stepserve

LONG_AGO_S = 1_000_000_000
JOBS = {
    "ended": "done",
    "lost": "failed",
    "running": "running",
    "waiting": "pending",
    "shards": "done",
    "young": "done",
    "decided": "done",
    "baseline": "done",
    "source": "done",
}
TYPES = {"decided": "promotion"}
CONFIGS = {"waiting": {"baseline_run": "baseline", "sets": [{"sources": ["eval/source/samples.jsonl"]}]}}
"""Runs that an open job will read."""


@pytest.fixture
def used(layout: Layout) -> Layout:
    """A base directory with jobs of every status, long ago and young, and what they left."""
    with closing(sqlite3.connect(layout.database)) as connection:
        for name, status in JOBS.items():
            values: dict[str, object] = {
                "type": TYPES.get(name, "eval"),
                "config": json.dumps(CONFIGS.get(name, {})),
            }
            _insert(connection, "jobs", values | {"id": name, "status": status})
        for number, (job, acknowledged) in enumerate((("shards", None), ("ended", "2020-01-01 00:00:00"))):
            shard = {
                "name": job,
                "job_id": job,
                "number": number,
                "state": "published",
                "acknowledged_at": acknowledged,
            }
            _insert(connection, "shards", shard)
        connection.commit()
    (layout.shards / "shard_shards.jsonl").write_text("{}\n")
    for name in (*JOBS, "nobodys"):
        run = layout.eval_runs / name
        run.mkdir(parents=True)
        (run / "samples.jsonl").write_text("x" * 1000)
        if name != "young":
            for path in (run / "samples.jsonl", run):
                os.utime(path, (LONG_AGO_S, LONG_AGO_S))
    for name in ("jobs.log", "jobs.log.1"):
        (layout.logs / name).write_text("x")
        os.utime(layout.logs / name, (LONG_AGO_S, LONG_AGO_S))
    return layout


def _insert(connection: sqlite3.Connection, table: str, values: dict[str, object]) -> None:
    """A row with something harmless in every column that must have a value."""
    for _, name, kind, needed, default, _ in connection.execute(f"PRAGMA table_info({table})").fetchall():
        if needed and default is None and name not in values:
            values[name] = 0 if "INT" in kind.upper() else "{}" if "JSON" in kind.upper() else "2020-01-01 00:00:00"
    names = ", ".join(values)
    connection.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(values))})", [*values.values()])


def gc(layout: Layout, *arguments: str, **retention: object) -> Ended:
    return stepserve(layout.base, "gc", *arguments, **{f"retention__{name}": retention[name] for name in retention})


def left(layout: Layout) -> set[str]:
    return {run.name for run in layout.eval_runs.iterdir()}


def test_only_what_nobody_needs_goes(used: Layout) -> None:
    everything = left(used)
    said = gc(used, "--dry-run", "--json", runs_max_age_days=30, logs_max_age_days=30)
    assert said.returncode == 0, said.stderr
    going = {Path(one["path"]).name for one in json.loads(said.stdout)}
    assert going == {"ended", "lost", "jobs.log.1"}
    assert left(used) == everything

    ended = gc(used, runs_max_age_days=30, logs_max_age_days=30)
    assert ended.returncode == 0, ended.stderr
    assert left(used) == everything - {"ended", "lost"}
    assert sorted(path.name for path in used.logs.glob("*.log*")) == ["jobs.log"]
    assert (used.shards / "shard_shards.jsonl").exists()


def test_by_size_no_job_that_has_not_ended_goes(used: Layout) -> None:
    ended = gc(used, runs_max_bytes=0)
    assert ended.returncode == 0, ended.stderr
    assert left(used) == {"running", "waiting", "shards", "nobodys", "decided", "baseline", "source"}


def test_without_a_setting_nothing_is_removed(used: Layout) -> None:
    everything = left(used)
    ended = gc(used)
    assert ended.returncode == 2
    assert "none of the settings" in ended.stderr
    assert left(used) == everything
    looked = gc(used, "--dry-run")
    assert (looked.returncode, "none of the settings" in looked.stdout) == (0, True)
    assert json.loads(gc(used, "--dry-run", "--json").stdout) == []
