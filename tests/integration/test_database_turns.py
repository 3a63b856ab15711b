"""Many who write to SQLite at the same moment, in one process."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import text

from control.database import database
from control.database.database import Database, database_url

WORK = text("WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 30000) SELECT count(*) FROM n")


async def test_each_gets_its_turn_however_many_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them together need longer than one of them may wait for the lock of another program."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 50)

    async def write(here: Database, number: int, done: list[int]) -> None:
        async with here.alone() as session:
            await session.execute(WORK)
            done.append(number)

    here = Database(database_url(tmp_path / "db.sqlite"))
    await here.migrate()
    done: list[int] = []
    await asyncio.gather(*(write(here, number, done) for number in range(60)))
    assert done == list(range(60)), "in the order in which they came"
    await here.close()
