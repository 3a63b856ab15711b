"""The database: one async engine a process, one transaction a request.

SQLite needs its pragmas said on every connection; nothing else in control knows which database it talks to.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from control.migrate import upgrade

BUSY_TIMEOUT_MS = 5_000


def database_url(file: Path) -> str:
    return f"sqlite+aiosqlite:///{file}"


class Database:
    """`transaction()` commits on leaving, rolls back on an error; rows stay readable after it."""

    def __init__(self, url: str) -> None:
        self._engine = create_async_engine(url)
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine.sync_engine, "connect", _set_pragmas)
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        async with self._sessions.begin() as session:
            yield session

    async def migrate(self) -> None:
        """Brings the schema to this program's version, before anything is served: it holds the event loop.

        Raises DatabaseTooNew.
        """

        def run(connection: Connection) -> None:
            upgrade(connection)

        async with self._engine.begin() as connection:
            await connection.run_sync(run)

    async def close(self) -> None:
        await self._engine.dispose()


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()
