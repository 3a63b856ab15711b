"""The schema that migrations make is the schema the program is written for."""

import asyncio
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from control.db import Database, database_url
from control.errors import DatabaseTooNew
from control.tables import Base


async def migrate(url: str) -> None:
    database = Database(url)
    try:
        await database.migrate()
    finally:
        await database.close()


def test_upgrading_from_empty_gives_the_tables(tmp_path: Path) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), Base.metadata))

    async def run() -> list[object]:
        url = database_url(tmp_path / "db.sqlite")
        await migrate(url)
        await migrate(url)
        engine = create_async_engine(url)
        try:
            async with engine.connect() as connection:
                names = set((await connection.scalars(text("SELECT name FROM sqlite_master"))).all())
                assert {"models", "activations", "active_model", "jobs"} <= names
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
