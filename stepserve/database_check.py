"""Looking at an SQLite database before it is used: whole, ours, writable. A refusal is a sentence with the way out."""

import logging
import os
import shlex
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

from stepserve.database_file import BackupRefused, check_backup

log = logging.getLogger(__name__)

CHECK_S = 2.0  # what a start waits for quick_check, which reads the whole file; a larger one is read on beside it
_MAGIC = b"SQLite format 3\0"
_OUR_TABLES = frozenset({"alembic_version", "jobs", "models"})


class DatabaseRefused(Exception):
    """Why the database cannot be used, in one sentence with the way out."""


def check(database: Path, signs_of_use: tuple[Path, ...] = (), limit_s: float = CHECK_S) -> None:
    """Raises DatabaseRefused for what is not a whole database of ours; none at all, or an empty one, is a first start.

    An empty file beside `signs_of_use` (files of a base directory that was used before) has lost what was in it. Blocks
    for `limit_s` at most beyond the first pages.
    """
    log_file = Path(f"{database}-wal")
    if not os.path.lexists(database):
        if log_file.exists() and log_file.stat().st_size:
            raise DatabaseRefused(
                f"{database} is missing and its log {log_file.name} is there: put the file back, or "
                + restoring(database)
            )
        return
    if database.is_dir():
        raise DatabaseRefused(f"{database} is a directory and must be an SQLite file: move it away, or set {_URL}")
    try:
        size_bytes = database.stat().st_size
        with database.open("rb") as stream:
            begins = stream.read(len(_MAGIC))
    except OSError as error:
        raise DatabaseRefused(
            f"{database} cannot be read ({error.strerror}): make it readable for this user, or set {_URL}"
        ) from error
    if not size_bytes:
        if any(path.exists() for path in (*signs_of_use, log_file)):
            raise DatabaseRefused(
                f"{database} is empty (0 bytes) and was not: {restoring(database)}; or remove it to begin anew"
            )
        return
    if begins != _MAGIC:
        raise DatabaseRefused(
            f"{database} is not an SQLite database, or its beginning is damaged: {restoring(database)}"
        )
    for path in (database, database.parent):
        if not os.access(path, os.W_OK):
            raise DatabaseRefused(f"{path} is read-only: make it writable for this user, or set {_URL}")
    _look_inside(database)
    _check_pages(database, limit_s)


def revision_of(database: Path) -> str | None:
    """Of the schema, as the database says; None where there is none yet. Blocks."""
    if not database.is_file() or not database.stat().st_size:
        return None
    try:
        with closing(_opened(database)) as connection:
            found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error:
        return None
    return str(found[0]) if found else None


def restoring(database: Path) -> str:
    """How to get a damaged database back: the command, with the newest backup beside it if there is one."""
    newest = next(backups(database), None)
    if newest is None:
        return "`stepserve db restore FILE` puts a backup in its place and keeps what is there under another name"
    return (
        f"`stepserve db restore {shlex.quote(str(newest))}` puts the newest backup here in its place and keeps what is"
        " there under another name"
    )


def backups(database: Path) -> Iterator[Path]:
    """Whole databases of ours that lie beside the database or in `backups/`, newest first. Blocks."""
    folder = database.parent
    found = [*folder.glob("*.sqlite"), *folder.glob(f"{database.name}.before-*"), *folder.glob("backups/*.sqlite")]
    files = [path for path in found if path != database and not path.name.endswith(("-wal", "-shm")) and path.is_file()]
    for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            check_backup(path)
        except BackupRefused:
            continue
        yield path


_URL = "INFERENCE_DATABASE_URL"


def _look_inside(database: Path) -> None:
    try:
        with closing(_opened(database)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        raise _unusable(database, error) from error
    tables = {name for name in tables if not name.startswith("sqlite_")}
    if tables and not tables >= _OUR_TABLES:
        some = ", ".join(sorted(tables)[:3])
        raise DatabaseRefused(
            f"{database} is another program's database (its tables: {some}): set {_URL} or INFERENCE_BASE_DIR, or"
            " move it away"
        )


def _check_pages(database: Path, limit_s: float) -> None:
    checked: Future[str] = Future()

    def run() -> None:
        try:
            with closing(_opened(database)) as connection:
                checked.set_result(str(connection.execute("PRAGMA quick_check(1)").fetchone()[0]))
        except sqlite3.Error as error:
            checked.set_exception(error)

    # A thread of its own: SQLite before 3.41 does not let go of a large table in the middle.
    threading.Thread(target=run, name="quick_check", daemon=True).start()
    try:
        said = checked.result(limit_s)
    except TimeoutError:
        log.warning("%s is not checked whole after %.0f s: the start goes on, and so does the check", database, limit_s)
        checked.add_done_callback(lambda done: _report(database, done))
        return
    except sqlite3.Error as error:
        raise _unusable(database, error) from error
    if said != "ok":
        raise DatabaseRefused(f"{database} is damaged ({_first_line(said)}): {restoring(database)}")


def _report(database: Path, checked: "Future[str]") -> None:
    said = str(checked.exception() or checked.result())
    if said == "ok":
        log.info("%s is whole", database)
    else:
        log.critical("%s is damaged (%s): stop the server; %s", database, _first_line(said), restoring(database))


def _unusable(database: Path, error: sqlite3.Error) -> DatabaseRefused:
    if "locked" in str(error):
        return DatabaseRefused(
            f"{database} is locked by another program: close that first (`fuser {database}` names it)"
        )
    return DatabaseRefused(f"{database} is damaged ({error}): {restoring(database)}")


def _opened(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True, timeout=5.0)


def _first_line(text: str) -> str:
    return " ".join(text.split())[:200]
