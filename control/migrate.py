"""Schema migrations, run from the installed `migrations` package: no alembic.ini."""

from importlib.resources import as_file, files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection

from control.errors import DatabaseTooNew


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Upgrades to `revision` inside the connection's transaction.

    Raises DatabaseTooNew when the database carries a revision this program has never heard of.
    """
    with as_file(files("migrations")) as folder:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        unknown = set(MigrationContext.configure(connection).get_current_heads()) - known
        if unknown:
            raise DatabaseTooNew(
                f"the database is at revision {', '.join(sorted(unknown))}, which this version of Switchyard does not"
                " know: start the newer version that wrote it, or restore a backup"
            )
        command.upgrade(config, revision)
