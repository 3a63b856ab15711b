"""SQLite locked, full and read-only: a clear refusal, and the worker goes on afterwards. And a loss of power."""

import asyncio
import contextlib
import errno
import resource
import socket
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from control.database.database import Database, database_url
from control.database.tables import ActiveModelRow
from control.errors import DatabaseUnavailable
from control.jobs.queue import JobQueue
from tests.integration.control_plane import ControlPlane, control_plane


@contextlib.asynccontextmanager
async def locked(base: Path) -> AsyncIterator[None]:
    """Another program's lock. It waits for it in a thread: who holds it now needs this event loop to let go."""
    connection = sqlite3.connect(base / "db.sqlite", check_same_thread=False)
    await asyncio.to_thread(connection.execute, "BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.rollback()
        connection.close()


@contextlib.contextmanager
def full() -> Iterator[None]:
    """No file may grow: what the kernel then says to a write is what a full disk says."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def held_job(here: ControlPlane) -> str:
    await here.add_active("a")
    here.kind.may_go.clear()
    job_id = str((await here.post("/echo/jobs", model_id="a"))["job_id"])
    async with asyncio.timeout(240):
        await here.kind.started.wait()
    return job_id


async def test_a_locked_database(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        running = await held_job(here)
        async with locked(tmp_path):
            detail = await here.refused(503, "/echo/jobs", model_id="a")
            assert detail == "the database cannot be used now: it is locked by another program"
            assert (await here.get(f"/jobs/{running}"))["status"] == "running", "reading goes on"
        here.kind.may_go.set()
        await here.job(running, "done")
        await here.job((await here.post("/echo/jobs", model_id="a"))["job_id"], "done")


async def test_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with control_plane(tmp_path, job_lease_s=0.5) as here:
        running = await held_job(here)
        with full():
            detail = await here.refused(503, "/echo/jobs", model_id="a")
            async with asyncio.timeout(240):
                await here.kind.ended.wait()
        assert "the database cannot be used now: the disk" in detail
        here.kind.may_go.set()
        job = await here.job(running, "done")
        assert [attempt["outcome"] for attempt in job["attempts"]] == ["released", "done"]
    assert "its lease has run out" in caplog.text


async def test_a_read_only_database(tmp_path: Path) -> None:
    file = tmp_path / "db.sqlite"
    writing = Database(f"sqlite+aiosqlite:///{file}")
    await writing.migrate()
    await writing.close()
    reading = Database(f"sqlite+aiosqlite:///file:{file}?mode=ro&uri=true")
    try:
        async with reading.transaction() as session:
            assert await session.get(ActiveModelRow, 1) is None
        with pytest.raises(DatabaseUnavailable, match="it is read-only"):
            await JobQueue(reading, lease_s=15.0).fail_orphans()
    finally:
        await reading.close()


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('10.0.0.5', 5432)"), " (Connection refused)"),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed ('10.0.0.5', 5432)"), ""),
        (socket.gaierror(socket.EAI_NONAME, "db.internal: Name or service not known"), ""),
        (TimeoutError(), ""),
    ],
)
async def test_a_server_that_cannot_be_reached_is_told_without_its_address(
    trouble: OSError, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client of any route that needs the database reads it."""

    async def connect(*_: object, **__: object) -> None:
        raise ConnectionRefusedError(*trouble.args) if type(trouble) is OSError else trouble

    here = Database("postgresql+asyncpg://u:secret@db.internal:5432/x")
    monkeypatch.setattr("asyncpg.connect", connect)
    with pytest.raises(DatabaseUnavailable) as refused:
        async with here.transaction() as session:
            await session.execute(text("SELECT 1"))
    assert str(refused.value) == f"the database cannot be used now: its server cannot be reached{said}"
    await here.close()


async def test_each_commit_reaches_the_disk(tmp_path: Path) -> None:
    """https://www.sqlite.org/pragma.html#pragma_synchronous: with NORMAL a loss of power can take back a commit."""
    database = Database(database_url(tmp_path / "db.sqlite"))
    try:
        async with database.transaction() as session:
            assert await session.scalar(text("PRAGMA journal_mode")) == "wal"
            assert await session.scalar(text("PRAGMA synchronous")) == 2, "FULL"
    finally:
        await database.close()
