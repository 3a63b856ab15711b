"""Backups of the SQLite database: taken while the server writes, put back while it does not run."""

import os
import shutil
import socket
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

from stepserve.base_lock import BaseInUse, hold
from stepserve.durable import put_in_place, sync
from stepserve.paths import Layout
from stepserve.settings import Settings


class BackupRefused(Exception):
    """Why nothing was done, in one sentence with the way out."""


def file_of(settings: Settings) -> Path:
    """The database's file. Raises BackupRefused where it is none of SQLite's."""
    if settings.database_url is None:
        return settings.layout.database
    url = settings.database_url.get_secret_value()
    if not url.startswith("sqlite+aiosqlite:///"):
        raise BackupRefused("The database is PostgreSQL, which has its own tools: use pg_dump and pg_restore")
    return Path(url.removeprefix("sqlite+aiosqlite:///"))


def backup(database: Path, target: Path) -> int:
    """Copies the database as it is at one moment into the new file `target`; returns its size in bytes.

    Readers and writers go on meanwhile. Raises BackupRefused; `target` is there whole or not at all.
    """
    if not database.is_file():
        raise BackupRefused(f"There is no database {database}: set INFERENCE_BASE_DIR")
    if target.exists():
        raise BackupRefused(f"{target} is there already and is not written over; name another file")
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        aside.touch(mode=0o600)
        read_only = f"{database.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(read_only, uri=True)) as source, closing(sqlite3.connect(aside)) as copy:
            source.backup(copy)  # all pages in one read transaction, which under WAL keeps no writer waiting
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, with nothing beside it
        check_backup(aside)
        sync(aside)
        os.link(aside, target)  # unlike a rename it never replaces
        sync(target.parent)
        return target.stat().st_size
    except FileExistsError as error:
        raise BackupRefused(f"{target} is there already and is not written over; name another file") from error
    except (OSError, sqlite3.Error) as error:
        raise BackupRefused(f"{database} cannot be copied to {target}: {error}") from error
    finally:
        aside.unlink(missing_ok=True)


def restore(saved: Path, database: Path, layout: Layout) -> Path | None:
    """Puts `saved` in the place of the database, which is kept under another name: that name, if there was one.

    Raises BackupRefused, and has changed nothing then: the server runs, or the file is no database of ours.
    """
    check_backup(saved)
    database = database.resolve()  # a link to another disk stays one
    try:
        layout.base.mkdir(parents=True, exist_ok=True)
        with hold(layout):
            for address in (layout.control_socket, layout.gateway_socket):
                if _answers(address):
                    raise BackupRefused(f"A server runs on {layout.base}; stop it first")
            return _exchange(saved, database)
    except BaseInUse as error:
        raise BackupRefused(f"A server (process {error.holder}) runs on {layout.base}; stop it first") from error
    except OSError as error:
        raise BackupRefused(f"{saved} cannot be put in the place of {database}: {error}") from error


def _exchange(saved: Path, database: Path) -> Path | None:
    fresh = database.with_name(f".{database.name}.{os.getpid()}")
    kept = database.with_name(f"{database.name}.before-{time.strftime('%Y%m%dT%H%M%S')}")
    try:
        fresh.touch(mode=0o600)
        shutil.copyfile(saved, fresh)
        sync(fresh)
        had_one = os.path.lexists(database)
        if database.is_dir():
            database.rename(kept)
        elif had_one:
            os.link(database, kept)
        # A log of the old database must never be read into the new one; beside the kept file it is whole again.
        for suffix in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                Path(f"{database}{suffix}").rename(f"{kept}{suffix}")
                had_one = True
        put_in_place(fresh, database)
    finally:
        fresh.unlink(missing_ok=True)
    return kept if had_one else None


def check_backup(file: Path) -> None:
    """Raises BackupRefused unless the file is a whole database of Stepserve's."""
    if not file.is_file():
        raise BackupRefused(f"There is no file {file}")
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            said = database.execute("PRAGMA quick_check").fetchone()[0]
    except sqlite3.Error as error:
        raise BackupRefused(f"{file} is not a SQLite database: {error}") from error
    if not {"alembic_version", "jobs", "models"} <= tables:
        raise BackupRefused(f"{file} is not a Stepserve database")
    if said != "ok":
        raise BackupRefused(f"{file} is damaged: {said}")


def _answers(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(address)) == 0
