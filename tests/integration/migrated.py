"""Migrated databases for tests of something else: one is made in each process of tests, and copied."""

import functools
import tempfile
from pathlib import Path

from sqlalchemy import create_engine

from control.database.migrate import upgrade
from stepserve.settings import Settings


def place_database(settings: Settings) -> None:
    """Puts one into a base directory that has none, unless the settings name another database."""
    settings.layout.create()
    if settings.database_url is None and not settings.layout.database.exists():
        settings.layout.database.write_bytes(_migrated_file())


@functools.cache
def _migrated_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "database"
        engine = create_engine(f"sqlite:///{file}")
        with engine.begin() as connection:
            upgrade(connection)
        engine.dispose()
        return file.read_bytes()
