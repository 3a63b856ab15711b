"""`stepserve db` as a person runs it, on a migrated database with somebody writing into it."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from stepserve.base_lock import hold
from stepserve.paths import Layout
from tests.integration.programs import stepserve


@pytest.fixture
def counting(layout: Layout) -> Layout:
    """Its database has a table in which rows can be counted."""
    with closing(sqlite3.connect(layout.database)) as connection:
        connection.execute("CREATE TABLE counted (a INTEGER, b INTEGER)")
        connection.commit()
    return layout


def counted(file: Path) -> list[tuple[int, int]]:
    with closing(sqlite3.connect(file)) as connection:
        return list(connection.execute("SELECT a, b FROM counted"))


@contextmanager
def writing(file: Path) -> Iterator[threading.Event]:
    """Another connection that writes a pair of rows a transaction, as fast as it can."""
    stop, begun = threading.Event(), threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(file, timeout=5)) as connection:
            number = 0
            while not stop.is_set():
                with connection:
                    connection.execute("INSERT INTO counted VALUES (?, 0)", (number,))
                    connection.execute("INSERT INTO counted VALUES (?, 1)", (number,))
                number += 1
                begun.set()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert begun.wait(240)
        yield begun
    finally:
        stop.set()
        thread.join()


def test_a_backup_beside_a_writer_is_one_moment(counting: Layout) -> None:
    saved = counting.base / "saved.sqlite"
    with writing(counting.database):
        ended = stepserve(counting.base, "db", "backup", saved)
    assert ended.returncode == 0, ended.stderr
    rows = counted(saved)
    numbers = sorted({number for number, _ in rows})
    assert rows  # whole transactions without a gap
    assert numbers == list(range(len(numbers)))
    assert len(rows) == 2 * len(numbers)
    again = stepserve(counting.base, "db", "backup", saved)
    assert again.returncode == 2
    assert "is there already" in again.stderr
    assert counted(saved) == rows
    assert [path.name for path in counting.base.iterdir() if path.name.startswith(".saved")] == []


def test_a_restore_brings_the_old_rows_back_and_keeps_the_new(counting: Layout) -> None:
    saved = counting.base / "saved.sqlite"
    assert stepserve(counting.base, "db", "backup", saved).returncode == 0
    late = sqlite3.connect(counting.database)  # left open, as a crash leaves it: its row stands in the log alone
    late.execute("INSERT INTO counted VALUES (7, 7)")
    late.commit()
    ended = stepserve(counting.base, "db", "restore", saved)
    late.close()
    assert ended.returncode == 0, ended.stderr
    assert counted(counting.database) == []
    (kept,) = counting.base.glob("db.sqlite.before-*[0-9]")
    assert counted(kept) == [(7, 7)]
    assert str(kept) in ended.stdout


def test_backups_and_what_is_put_back_are_for_their_user_alone(counting: Layout) -> None:
    saved = counting.base / "saved.sqlite"
    assert stepserve(counting.base, "db", "backup", saved).returncode == 0
    saved_mode = saved.stat().st_mode & 0o777
    saved.chmod(0o644)
    assert stepserve(counting.base, "db", "restore", saved).returncode == 0
    assert (saved_mode, counting.database.stat().st_mode & 0o777) == (0o600, 0o600)


def test_a_restore_beside_a_server_is_refused(counting: Layout) -> None:
    saved = counting.base / "saved.sqlite"
    assert stepserve(counting.base, "db", "backup", saved).returncode == 0
    with closing(sqlite3.connect(counting.database)) as connection, connection:
        connection.execute("INSERT INTO counted VALUES (1, 1)")
    with hold(counting):
        ended = stepserve(counting.base, "db", "restore", saved)
    assert ended.returncode == 2
    assert f"(process {os.getpid()})" in ended.stderr
    assert "stop it first" in ended.stderr
    assert counted(counting.database) == [(1, 1)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no database at all, but long enough to look at" * 50, "not a SQLite database"),
        (b"", "not a Stepserve database"),
    ],
)
def test_what_is_no_backup_is_refused(counting: Layout, content: bytes, said: str) -> None:
    file = counting.base / "odd"
    file.write_bytes(content)
    before = counting.database.read_bytes()
    ended = stepserve(counting.base, "db", "restore", file)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr
    assert counting.database.read_bytes() == before


def test_postgresql_is_sent_to_its_own_tools(tmp_path: Path) -> None:
    ended = stepserve(tmp_path, "db", "backup", database_url="postgresql+asyncpg://somebody@nowhere/x")
    assert ended.returncode == 2
    assert "pg_dump" in ended.stderr
