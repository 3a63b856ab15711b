"""A database that is damaged, or not ours: said in one sentence with the way out, at the start and while it runs."""

import asyncio
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from control.database.database import Database, database_url
from control.database.migrate import revisions, upgrade
from control.errors import DatabaseUnfit
from stepserve.child import EXIT_REFUSED, Child
from stepserve.database_check import DatabaseRefused, backups, check, revision_of
from stepserve.database_file import backup
from stepserve.paths import Layout
from stepserve.supervisor import until_over
from tests.integration.control_plane import control_plane
from tests.integration.postgres import PostgresServer
from tests.integration.programs import python, stepserve


def _truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _garbage(file: Path) -> None:
    file.write_bytes(os.urandom(50_000))


def _pages(file: Path) -> None:
    """Everything but the first page, which has the schema's root, is noise."""
    with file.open("r+b") as stream:
        stream.seek(4096 * 4)
        stream.write(os.urandom(file.stat().st_size - 4096 * 4))


def _emptied(file: Path) -> None:
    file.write_bytes(b"")
    file.with_name(".digests.json").write_text("{}")


def _others(file: Path) -> None:
    file.unlink()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE moz_places (id INTEGER)")


def _others_with_migrations(file: Path) -> None:
    file.unlink()
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('deadbeef')")
        connection.execute("CREATE TABLE dag_run (id INTEGER)")


def _directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _log_alone(file: Path) -> None:
    file.unlink()
    Path(f"{file}-wal").write_bytes(bytes(100))


def _overwrite_all(file: Path) -> None:
    for path in file.parent.glob(f"{file.name}*"):
        with path.open("r+b") as stream:
            stream.write(os.urandom(100_000))


RESTORE = "`stepserve db restore "
SPOILED: list[tuple[Callable[[Path], None], str, str]] = [
    (_truncated, "is damaged", RESTORE),
    (_garbage, "is not an SQLite database, or its beginning is damaged", RESTORE),
    (_pages, "is damaged", RESTORE),
    (_emptied, "is empty (0 bytes) and was not", RESTORE),
    (_log_alone, "is missing and its log db.sqlite-wal is there", RESTORE),
    (_directory, "is a directory", "INFERENCE_DATABASE_URL"),
    (_others, "is another program's database (its tables: moz_places)", "INFERENCE_BASE_DIR"),
    (_others_with_migrations, "is another program's database", "INFERENCE_BASE_DIR"),
]


@pytest.mark.parametrize(("spoil", "said", "way_out"), SPOILED, ids=[spoil.__name__[1:] for spoil, _, _ in SPOILED])
def test_what_cannot_be_used_is_named_with_the_way_out(
    layout: Layout, spoil: Callable[[Path], None], said: str, way_out: str
) -> None:
    spoil(layout.database)

    async def migrate() -> None:
        database = Database(database_url(layout.database))
        try:
            await database.migrate()
        finally:
            await database.close()

    with pytest.raises(DatabaseUnfit) as refused:
        asyncio.run(migrate())
    text = str(refused.value)
    assert text.startswith(str(layout.database))
    assert said in text
    assert way_out in text
    assert "\n" not in text


def test_a_first_start_is_none_of_them(tmp_path: Path) -> None:
    check(tmp_path / "none.sqlite")
    (tmp_path / "empty.sqlite").touch()
    check(tmp_path / "empty.sqlite", signs_of_use=(tmp_path / "keys.json",))


def test_a_locked_database_is_named(layout: Layout) -> None:
    with closing(sqlite3.connect(layout.database, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode=DELETE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DatabaseRefused, match="is locked by another program"):
            check(layout.database)


def test_a_large_database_is_waited_for_no_longer_than_told(layout: Layout, caplog: pytest.LogCaptureFixture) -> None:
    with closing(sqlite3.connect(layout.database)) as connection, connection:
        connection.execute("CREATE TABLE large AS SELECT zeroblob(100000000) AS of_100_mb")
    check(layout.database, limit_s=0)
    assert "is not checked whole after 0 s" in caplog.text


def test_a_damaged_database_ends_the_start_and_a_restore_brings_it_back(layout: Layout) -> None:
    backup(layout.database, layout.base / "saved.sqlite")
    _garbage(layout.database)
    ended = python(layout.base, "-m", "control", install_demo=False)
    assert ended.returncode == EXIT_REFUSED, ended.stderr
    (line,) = ended.stderr.strip().splitlines()
    assert f"`stepserve db restore {layout.base / 'saved.sqlite'}` puts the newest backup here in its place" in line
    restored = stepserve(layout.base, "db", "restore")
    assert restored.returncode == 0, restored.stderr
    check(layout.database)
    assert list(layout.base.glob("db.sqlite.before-*"))


def test_an_upgrade_leaves_a_copy_to_go_back_to(layout: Layout) -> None:
    layout.database.unlink()

    async def of_earlier() -> None:
        engine = create_async_engine(database_url(layout.database))
        async with engine.begin() as connection:
            await connection.run_sync(lambda sync: upgrade(sync, "0009"))
        await engine.dispose()

    async def migrate() -> None:
        database = Database(database_url(layout.database))
        try:
            await database.migrate()
        finally:
            await database.close()

    asyncio.run(of_earlier())
    asyncio.run(migrate())
    (copy,) = backups(layout.database)
    assert revision_of(copy) == "0009"
    assert revision_of(layout.database) == revisions()[0]
    asyncio.run(migrate())
    assert list(backups(layout.database)) == [copy]


@pytest.mark.parametrize("spoil", [_directory, _log_alone])
def test_a_restore_over_what_is_no_file(layout: Layout, spoil: Callable[[Path], None]) -> None:
    backup(layout.database, layout.base / "saved.sqlite")
    spoil(layout.database)
    restored = stepserve(layout.base, "db", "restore", layout.base / "saved.sqlite")
    assert restored.returncode == 0, restored.stderr
    assert not Path(f"{layout.database}-wal").exists()
    check(layout.database)


def test_an_upgrade_is_done_whole_or_not_at_all(tmp_path: Path) -> None:
    """A later step cannot be taken: those before it are taken back, and the next start begins where it was."""
    url = database_url(tmp_path / "db.sqlite")

    async def migrate() -> None:
        database = Database(url)
        try:
            await database.migrate()
        finally:
            await database.close()

    async def run(*statements: str) -> list[str]:
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            for statement in statements:
                await connection.execute(text(statement))
            names = await connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'"))
            found = [name for (name,) in names]
        await engine.dispose()
        return found

    async def story() -> None:
        await migrate()
        made_by_0006 = ["api_keys", "access_state", "key_usage", "audit_log"]
        drops = [f"DROP TABLE {name}" for name in made_by_0006]
        await run(*drops, "UPDATE alembic_version SET version_num = '0005'")
        with pytest.raises(DatabaseUnfit, match="cannot be brought to this version's schema: duplicate column"):
            await migrate()  # 0007 adds a column that is there
        assert set(made_by_0006).isdisjoint(await run())

    asyncio.run(story())


def test_a_postgresql_database_of_another_program(postgres: PostgresServer) -> None:
    url = postgres.new_database("foreign_app")
    postgres.sql("foreign_app", "CREATE TABLE jobs (id integer)")

    async def migrate() -> None:
        database = Database(url)
        try:
            await database.migrate()
        finally:
            await database.close()

    with pytest.raises(DatabaseUnfit, match=r"another program's tables \(jobs\)"):
        asyncio.run(migrate())


async def test_damage_while_it_runs_is_said_and_nothing_else_ends(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a")
        await asyncio.to_thread(_overwrite_all, here.layout.database)
        for path in ("/models", "/jobs", "/health"):
            answer = await here.http.get(path)
            assert answer.status_code == 503, (path, answer.text)
            assert "stepserve db restore" in answer.json()["detail"]
        assert here.gateway.active is not None


@pytest.mark.parametrize("how", ["deleted", "exchanged", "base deleted"])
async def test_a_database_that_is_deleted_under_a_running_server(tmp_path: Path, how: str) -> None:
    """What would be written to the old file from then on is lost, so nothing is."""
    base = tmp_path / "base"
    async with control_plane(base) as here:
        await here.add_active("a")
        if how == "base deleted":
            shutil.rmtree(base)
        else:
            here.layout.database.unlink()
        if how == "exchanged":
            here.layout.database.touch()
        for method, path in (("GET", "/models"), ("GET", "/health"), ("POST", "/echo/jobs")):
            answer = await here.http.request(method, path, json={"model_id": "a"} if method == "POST" else None)
            assert answer.status_code == 503, (path, answer.text)
            assert "was deleted or exchanged while the server runs" in answer.json()["detail"]
        assert how == "exchanged" or not here.layout.database.exists(), "no new one was begun"


async def test_models_deleted_under_a_running_server(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a")
        await here.add_model("b", seed=1)
        shutil.rmtree(here.layout.models)
        assert [model["id"] for model in (await here.get("/models"))["models"]] == ["b", "a"]
        assert "does not exist" in await here.refused(422, "/models/set_active", id="b")
        assert "does not exist" in await here.refused(422, "/models/register", id="c", source="t")
        assert (await here.get("/health"))["active_model"] == "a"
        answer = await here.http.delete("/models/b", params={"files": "true"})
        assert answer.status_code == 200, answer.text


async def test_control_that_cannot_start_again_takes_nothing_down_with_it(tmp_path: Path) -> None:
    """`until_over` is what `stepserve up` waits in; the programs are two lines of shell."""
    again = tmp_path / "again"
    script = f"if [ -e {again} ]; then exit {EXIT_REFUSED}; fi; touch {again}; exit 1"
    gateway = Child("gateway", [sys.executable, "-c", "import time; time.sleep(60)"])
    control = Child("control", ["sh", "-c", script])
    running = {asyncio.create_task(child.run()): child for child in (gateway, control)}
    stop = asyncio.Event()
    stopped = asyncio.create_task(stop.wait())
    over = asyncio.create_task(until_over(dict(running), stopped))
    refused = next(task for task, child in running.items() if child is control)
    async with asyncio.timeout(240):
        await refused
    await asyncio.sleep(0)
    assert not over.done()
    stop.set()
    assert await over is None
    await gateway.stop(5)
    await asyncio.gather(*running)


async def test_control_that_is_refused_at_first_ends_the_start(tmp_path: Path) -> None:
    control = Child("control", ["sh", "-c", f"exit {EXIT_REFUSED}"])
    running = asyncio.create_task(control.run())
    stopped = asyncio.create_task(asyncio.Event().wait())
    async with asyncio.timeout(240):
        assert await until_over({running: control}, stopped) == "control"
    stopped.cancel()
