"""`switchyard gc` as a person runs it, on a migrated database."""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from control.db import Database, database_url
from switchyard.paths import Layout

REPOSITORY = Path(__file__).resolve().parents[2]
LONG_AGO_S = 1_000_000_000
JOBS = {
    "ended": "done",
    "lost": "failed",
    "running": "running",
    "waiting": "pending",
    "shards": "done",
    "young": "done",
}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(base=tmp_path, models=tmp_path / "models")
    layout.create()

    async def migrate() -> None:
        database = Database(database_url(layout.database))
        await database.migrate()
        await database.close()

    asyncio.run(migrate())
    with closing(sqlite3.connect(layout.database)) as connection:
        for name, status in JOBS.items():
            _insert(connection, "jobs", {"id": name, "status": status})
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


def gc(layout: Layout, *arguments: str, **retention: object) -> subprocess.CompletedProcess[str]:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("INFERENCE_")}
    return subprocess.run(
        [sys.executable, "-c", "from client.cli import main; main()", "gc", *arguments],
        cwd=layout.base,
        env=bare
        | {"INFERENCE_BASE_DIR": str(layout.base), "PYTHONPATH": str(REPOSITORY)}
        | {f"INFERENCE_RETENTION__{name.upper()}": str(value) for name, value in retention.items()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def left(layout: Layout) -> set[str]:
    return {run.name for run in layout.eval_runs.iterdir()}


def test_only_what_nobody_needs_goes(layout: Layout) -> None:
    everything = left(layout)
    said = gc(layout, "--dry-run", "--json", runs_max_age_days=30, logs_max_age_days=30)
    assert said.returncode == 0, said.stderr
    going = {Path(one["path"]).name for one in json.loads(said.stdout)}
    assert going == {"ended", "lost", "jobs.log.1"}
    assert left(layout) == everything

    ended = gc(layout, runs_max_age_days=30, logs_max_age_days=30)
    assert ended.returncode == 0, ended.stderr
    assert left(layout) == everything - {"ended", "lost"}
    assert sorted(path.name for path in layout.logs.glob("*.log*")) == ["jobs.log"]
    assert (layout.shards / "shard_shards.jsonl").exists()


def test_by_size_no_job_that_has_not_ended_goes(layout: Layout) -> None:
    ended = gc(layout, runs_max_bytes=0)
    assert ended.returncode == 0, ended.stderr
    assert left(layout) == {"running", "waiting", "shards", "nobodys"}


def test_without_a_setting_nothing_is_removed(layout: Layout) -> None:
    everything = left(layout)
    ended = gc(layout)
    assert ended.returncode == 2
    assert "none of the settings" in ended.stderr
    assert left(layout) == everything
