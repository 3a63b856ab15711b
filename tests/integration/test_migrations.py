"""The schema that migrations make is the schema the program is written for."""

import asyncio
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from control.database.database import Database, database_url, url_of
from control.database.migrate import upgrade
from control.database.tables import Base
from control.errors import DatabaseTooNew
from control.jobs.queue import JobQueue
from tests.integration.house import settings_of

OLD_JOB = """
INSERT INTO jobs (id, type, model_id, model_digest, status, config, attempt, progress_done, created_at)
VALUES ('j', 'eval', 'a', 'sha256:aa', 'pending', '{}', 0, 0, '2025-11-22 05:30:00.000000')
"""


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


def test_jobs_of_the_first_version_are_kept(tmp_path: Path) -> None:
    async def run() -> None:
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

    asyncio.run(run())
