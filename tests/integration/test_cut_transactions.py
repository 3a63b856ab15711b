"""Transactions that are still under way when the database is closed."""

import asyncio
import gc
import warnings
from pathlib import Path

import pytest
from sqlalchemy import text

from control.database import database
from control.database.database import Database, database_url


def test_a_transaction_that_outlasts_the_closing_leaves_no_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_LAST_TRANSACTIONS_S", 0.01)

    async def use(here: Database, began: asyncio.Event, may_end: asyncio.Event) -> None:
        async with here.transaction() as session:
            await session.execute(text("SELECT 1"))
            began.set()
            await may_end.wait()

    async def run() -> None:
        here = Database(database_url(tmp_path / "db.sqlite"))
        began, may_end = asyncio.Event(), asyncio.Event()
        using = asyncio.create_task(use(here, began, may_end))
        await began.wait()
        await here.close()
        may_end.set()
        await using

    with warnings.catch_warnings(record=True, action="always", category=ResourceWarning) as lost:
        asyncio.run(run())
        gc.collect()
    assert [str(one.message) for one in lost] == []
