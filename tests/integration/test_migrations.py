"""The schema that migrations make is the schema the program is written for."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, MetaData, func, inspect, select, text
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from control.database.database import Database, database_url, url_of
from control.database.migrate import upgrade
from control.database.tables import Base
from control.errors import DatabaseTooNew
from control.fleet.rollout_book import RolloutBook
from control.jobs.queue import JobQueue
from control.models.activation_log import ActivationLog
from stepserve.contract import ModelRef
from stepserve.fleet import Committed
from tests.integration.control_plane import settings_of

OLD_JOB = """
INSERT INTO jobs (id, type, model_id, model_digest, status, config, attempt, progress_done, created_at)
VALUES ('j', 'eval', 'a', 'sha256:aa', 'pending', '{}', 0, 0, '2025-11-22 05:30:00.000000')
"""


BEFORE = "0012"  # the release before
ROWS: dict[str, list[dict[str, Any]]] = {
    "jobs": [{"status": status} for status in ("pending", "running", "done", "failed", "cancelled")],
    "activations": [{"status": status} for status in ("done", "failed", "running")],
    "shards": [{"state": "published"}],
}
WHEN = datetime(2025, 11, 22, 5, 30, tzinfo=UTC)
VALUES: dict[type, Any] = {bool: True, float: 1.5, object: {"a": "ä"}, datetime: WHEN}


def fill(connection: Connection) -> None:
    """Each table there is with a row or some, in which no field is empty."""
    there = MetaData()
    there.reflect(connection)
    for table in there.sorted_tables:
        for number, given in enumerate(ROWS.get(table.name, [{}]) if table.name != "alembic_version" else []):
            row = {column.name: value_of(column, number) for column in table.columns if not is_counted(column)}
            connection.execute(table.insert(), row | given)


def is_counted(column: Column[Any]) -> bool:
    return column.primary_key and column.name == "id" and column.type.python_type is int


def value_of(column: Column[Any], number: int) -> Any:
    kind = column.type.python_type
    if kind is int:
        return 1 if column.name == "singleton" else number
    return str(number) if kind is str else VALUES[kind]


def counts(connection: Connection) -> dict[str, int]:
    there = MetaData()
    there.reflect(connection)
    rows = {table.name: connection.scalar(select(func.count()).select_from(table)) for table in there.sorted_tables}
    return {name: int(count or 0) for name, count in rows.items()}


async def migrate(url: str) -> None:
    database = Database(url)
    try:
        await database.migrate()
    finally:
        await database.close()


@pytest.mark.usefixtures("each_database")
def test_upgrading_from_empty_gives_the_tables(tmp_path: Path) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), Base.metadata))

    async def run() -> list[object]:
        url = url_of(settings_of(tmp_path))
        await migrate(url)
        await migrate(url)
        engine = create_async_engine(url)
        try:
            async with engine.connect() as connection:
                names = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
                assert {"models", "activations", "active_model", "jobs", "job_attempts"} <= set(names)
                return await connection.run_sync(differences)
        finally:
            await engine.dispose()

    assert asyncio.run(run()) == []


@pytest.mark.usefixtures("each_database")
async def test_a_filled_database_of_the_release_before(tmp_path: Path) -> None:
    """Every row is kept; of what had ended nobody is told, and of what runs everybody is, once it has ended."""
    url = url_of(settings_of(tmp_path))
    engine = create_async_engine(url)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(lambda sync: upgrade(sync, BEFORE))
            await connection.run_sync(fill)
            before = await connection.run_sync(counts)
        await migrate(url)
        async with engine.begin() as connection:
            after = await connection.run_sync(counts)
            assert (before["jobs"], before["activations"], before["models"]) == (5, 3, 1)
            assert {name: after[name] for name in before} == before
            for table in ("jobs", "activations"):
                due = await connection.execute(text(f"SELECT status FROM {table} WHERE unannounced"))
                assert {*due.scalars()} == {"pending", "running"} & {row["status"] for row in ROWS[table]}
            assert (await connection.execute(text("SELECT policies_due FROM models"))).scalar_one() is None
    finally:
        await engine.dispose()
    database = Database(url)
    try:
        history = ActivationLog(database)
        active, (left,) = await history.active(), await history.unfinished()
        assert (active and active.id, left.model_id) == ("0", "2")
        model = ModelRef(id="0", path="/a", digest="sha256:0")
        begun = await history.begin(model, cause="request", method="auto")
        assert begun > left.id
        committed = Committed(model=model.id, digest=model.digest)
        rollout = await RolloutBook(database).begin(left.id, committed, "0", "all", "25%", {"m": 1})
        assert [step.member_id for step in (await RolloutBook(database).get(rollout)).steps] == ["local", "m"]
    finally:
        await database.close()


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    async def run() -> None:
        url = database_url(tmp_path / "db.sqlite")
        await migrate(url)
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        await engine.dispose()
        await migrate(url)

    with pytest.raises(DatabaseTooNew, match="9999"):
        asyncio.run(run())


async def test_jobs_of_the_first_version_are_kept(tmp_path: Path) -> None:
    url = database_url(tmp_path / "db.sqlite")
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(lambda sync: upgrade(sync, "0001"))
        await connection.execute(text(OLD_JOB))
    await engine.dispose()
    await migrate(url)
    database = Database(url)
    try:
        job = await JobQueue(database, lease_s=15.0).get("j")
        assert (job.status, job.priority, job.failures, job.when_inactive) == ("pending", 0, 0, "wait")
    finally:
        await database.close()
