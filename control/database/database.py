"""The database: one async engine a process, one transaction a request.

SQLite needs its pragmas said on every connection, PostgreSQL a lock for what must happen alone; nothing else in control
knows which database it talks to.
"""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import event, func, select, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from control.database.migrate import revisions, upgrade
from control.errors import DatabaseUnavailable, DatabaseUnfit, Invalid
from control.tasks import is_set_within
from stepserve.database_check import DatabaseRefused, check, revision_of
from stepserve.database_file import BackupRefused, backup
from stepserve.settings import Settings

log = logging.getLogger(__name__)

BUSY_TIMEOUT_MS = 5_000
_LAST_TRANSACTIONS_S = 2.0
_LOCK_ALONE, _LOCK_MIGRATION = 7_265_100, 7_265_101
_NUL = ("22021", "22P05")  # in a text, and as an escape in JSON
_SQLITE_SAYS = {
    "locked": "it is locked by another program",
    "full": "the disk is full",
    "readonly": "it is read-only",
    "disk I/O error": "the disk fails",
    "malformed": "it is damaged: stop the server, then `stepserve db restore` puts a backup in its place",
    "file is not a database": "it is damaged: stop the server, then `stepserve db restore` puts a backup in its place",
}


def database_url(file: Path) -> str:
    return f"sqlite+aiosqlite:///{file}"


def url_of(settings: Settings) -> str:
    """Where this installation's database is: the setting, or the file in the base directory."""
    if settings.database_url is not None:
        return settings.database_url.get_secret_value()
    return database_url(settings.layout.database)


class Database:
    """`transaction()` commits on leaving, rolls back on an error; rows stay readable after it."""

    def __init__(self, url: str) -> None:
        self._engine = create_async_engine(url, pool_pre_ping=not url.startswith("sqlite"))
        self._is_sqlite = self._engine.dialect.name == "sqlite"
        if self._is_sqlite:
            event.listen(self._engine.sync_engine, "connect", _set_pragmas)
        self._file = _file_of(url)
        self._identity: tuple[int, int] | None = None
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)
        self._closed = False
        # SQLite gives its lock to whoever asks at the right moment: of many, some would wait beyond the limit.
        self._turn = asyncio.Lock()
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """Raises DatabaseUnavailable for what is the database's trouble and not the statement's, and once closed."""
        self._check_usable()
        self._under_way += 1
        self._idle.clear()
        try:
            with _translated():
                async with self._sessions.begin() as session:
                    yield session
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()
                if self._closed:
                    await self._engine.dispose()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[AsyncSession]:
        """A transaction beside which no other of these runs, in any process: for what looks before it writes."""
        async with self._turn if self._is_sqlite else nullcontext(), self.transaction() as session:
            if self._is_sqlite:
                await session.execute(text("BEGIN IMMEDIATE"))
            else:
                await session.execute(select(func.pg_advisory_xact_lock(_LOCK_ALONE)))
            yield session

    async def migrate(self) -> None:
        """Brings the schema to this program's version, all of it or nothing, before anything is served.

        It holds the event loop. Raises DatabaseTooNew, DatabaseUnfit, DatabaseUnavailable.
        """

        def run(connection: Connection) -> None:
            try:
                upgrade(connection)
            except DBAPIError as error:
                if error.connection_invalidated or any(trouble in str(error.orig) for trouble in _SQLITE_SAYS):
                    raise
                raise DatabaseUnfit(f"the database cannot be brought to this version's schema: {error.orig}") from error

        await asyncio.to_thread(self._check_file)
        with _translated():
            async with self._engine.begin() as connection:
                if self._is_sqlite:
                    await connection.execute(text("BEGIN IMMEDIATE"))
                else:
                    await connection.execute(select(func.pg_advisory_xact_lock(_LOCK_MIGRATION)))
                await connection.run_sync(run)
        self._identity = self._found()

    async def close(self) -> None:
        """Takes no more transactions, and waits for those under way: a connection that came back to a pool which is
        disposed of would be closed by nobody. Where they take long, the last of them disposes of it.
        """
        self._closed = True
        if await is_set_within(self._idle, _LAST_TRANSACTIONS_S):
            await self._engine.dispose()
        else:
            log.error("%d transactions do not end; the database stays open for them", self._under_way)

    def _check_file(self) -> None:
        if self._file is None:
            return
        beside = (self._file.with_name("keys.json"), self._file.with_name(".digests.json"))
        try:
            check(self._file, signs_of_use=beside)
        except DatabaseRefused as error:
            raise DatabaseUnfit(str(error)) from error
        newest, *older = revisions()
        if revision_of(self._file) in older:
            _keep_a_copy(self._file, self._file.with_name(f"{self._file.name}.before-{newest}"))

    def _check_usable(self) -> None:
        """What is written to a file that was deleted or exchanged is lost when the program ends."""
        if self._closed:
            raise DatabaseUnavailable("the database cannot be used any more: the program stops")
        if self._identity is not None and self._found() != self._identity:
            raise DatabaseUnavailable(
                f"the database cannot be used now: {self._file} was deleted or exchanged while the server runs; stop"
                " the server, and put it back or restore a backup (stepserve db restore)"
            )

    def _found(self) -> tuple[int, int] | None:
        if self._file is None:
            return None
        try:
            status = self._file.stat()
        except OSError:
            return (0, 0)
        return (status.st_dev, status.st_ino)


def _keep_a_copy(database: Path, target: Path) -> None:
    """The way back from an upgrade; without room for it there is none, and the upgrade goes on."""
    if target.exists():
        return
    try:
        backup(database, target)
    except BackupRefused as error:
        log.warning("the database is upgraded without a copy of it: %s", error)
    else:
        log.info("the database as it was before the upgrade is %s", target)


def _file_of(url: str) -> Path | None:
    prefix = "sqlite+aiosqlite:///"
    rest = url.removeprefix(prefix)
    return Path(rest) if url.startswith(prefix) and rest and not rest.startswith(("file:", ":")) else None


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except IntegrityError:
        raise
    except (OperationalError, InterfaceError, PoolTimeout) as error:
        raise _unavailable(error) from error
    except DBAPIError as error:
        if error.connection_invalidated or _is_damage(error):
            raise _unavailable(error) from error
        if getattr(error.orig, "sqlstate", None) in _NUL:
            raise Invalid("a text holds the character NUL (\\u0000), which PostgreSQL cannot store") from error
        raise
    # The PostgreSQL driver's own, before there is a connection.
    except (ConnectionError, TimeoutError, socket.gaierror) as error:
        raise _unavailable(error) from error


def _is_damage(error: DBAPIError) -> bool:
    return any(said in str(error.orig) for said in ("malformed", "file is not a database"))


def _unavailable(error: Exception) -> DatabaseUnavailable:
    if isinstance(error, OSError):  # its text has the server's address, and clients read this
        why = f" ({os.strerror(error.errno)})" if error.errno is not None and error.errno > 0 else ""
        return DatabaseUnavailable(f"the database cannot be used now: its server cannot be reached{why}")
    said = str(error.orig if isinstance(error, DBAPIError) else error) or type(error).__name__
    reason = next((ours for theirs, ours in _SQLITE_SAYS.items() if theirs in said), said)
    return DatabaseUnavailable(f"the database cannot be used now: {reason}")


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")  # what was answered outlives a loss of power: a job is never forgotten
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.execute("PRAGMA secure_delete=ON")  # traffic that its key deletes leaves no page that can still be read
    cursor.close()
