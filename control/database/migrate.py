"""Schema migrations, run from the installed `migrations` package: no alembic.ini."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect
from sqlalchemy.engine import Connection

from control.database.metadata import METADATA
from control.errors import DatabaseTooNew, DatabaseUnfit


@contextmanager
def _config() -> Iterator[Config]:
    with as_file(files("migrations")) as folder:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        yield config


def revisions() -> list[str]:
    """All that this program knows, newest first."""
    with _config() as config:
        return [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Upgrades to `revision` inside the connection's transaction.

    Raises DatabaseTooNew when the database carries a revision this program has never heard of, DatabaseUnfit when its
    tables are another program's.
    """
    with _config() as config:
        config.attributes["connection"] = connection
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        heads = set(MigrationContext.configure(connection).get_current_heads())
        unknown = heads - known
        tables = set(inspect(connection).get_table_names())
        clash = sorted(tables & {*METADATA.tables})
        if (clash and not heads) or (unknown and not {"jobs", "models"} <= tables):
            some = ", ".join((clash or sorted(tables))[:3])
            raise DatabaseUnfit(
                f"the database holds another program's tables ({some}): set INFERENCE_DATABASE_URL to a database of"
                " Stepserve's own"
            )
        if unknown:
            raise DatabaseTooNew(
                f"the database is at revision {', '.join(sorted(unknown))}, which this version of Stepserve does not"
                " know: start the newer version that wrote it, or restore a backup (stepserve db restore)"
            )
        command.upgrade(config, revision)
