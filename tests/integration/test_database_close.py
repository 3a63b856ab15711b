"""A database that is closed while others still use it leaves no connection behind."""

import asyncio
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text

from control.database.database import Database, database_url
from control.errors import DatabaseUnavailable


def _opened(file: Path) -> list[str]:
    """What this process has open of the database: the file, its log and its shared memory."""
    return [opened.path for opened in psutil.Process().open_files() if opened.path.startswith(str(file))]


async def test_it_waits_for_the_transactions_under_way_and_takes_no_more(tmp_path: Path) -> None:
    file = tmp_path / "db.sqlite"
    database = Database(database_url(file))
    await database.migrate()
    inside, may_go = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        async with database.transaction() as session:
            await session.execute(text("DELETE FROM jobs"))
            inside.set()
            await may_go.wait()

    straggler = asyncio.create_task(slow())
    await inside.wait()
    closing = asyncio.create_task(database.close())
    await asyncio.sleep(0)
    with pytest.raises(DatabaseUnavailable, match="the program stops"):
        async with database.transaction():
            pass
    assert not closing.done()
    assert _opened(file) != []
    may_go.set()
    await straggler
    await closing
    assert _opened(file) == []


async def test_who_never_ends_keeps_it_open_for_a_moment_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    database = Database(database_url(tmp_path / "db.sqlite"))
    inside = asyncio.Event()

    async def endless() -> None:
        async with database.transaction():
            inside.set()
            await asyncio.Event().wait()

    straggler = asyncio.create_task(endless())
    await inside.wait()
    await database.close()
    assert not straggler.done()
    straggler.cancel()
    assert "1 transactions do not end" in caplog.text
