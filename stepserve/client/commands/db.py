"""`stepserve db`: backups of the SQLite database of a server on this machine."""

import time
from pathlib import Path
from typing import Annotated

import typer

from stepserve.client.commands.config import settings_here
from stepserve.client.terminal import EXIT_REFUSED, step_aside, stop

app = typer.Typer(no_args_is_help=True, help="Back up and restore the database of a server on this machine.")


@app.command()
def backup(
    file: Annotated[Path | None, typer.Argument(help="The file to write; else one in the working directory.")] = None,
) -> None:
    """Copy the database as it is now into one file, beside a running server."""
    settings = settings_here()
    from stepserve.database_file import BackupRefused, file_of
    from stepserve.database_file import backup as copy

    step_aside()
    target = file or Path(f"stepserve-{time.strftime('%Y%m%dT%H%M%S')}.sqlite")
    try:
        size = copy(file_of(settings), target)
    except BackupRefused as error:
        stop(f"{error}.", EXIT_REFUSED)
    print(f"{target}: {size:,} bytes")


@app.command()
def restore(
    file: Annotated[
        Path | None,
        typer.Argument(help="A file that `stepserve db backup` wrote; else the newest beside the database."),
    ] = None,
) -> None:
    """Put a backup in the place of the database, which is kept beside it; refused while the server runs."""
    settings = settings_here()
    from stepserve.database_check import backups
    from stepserve.database_file import BackupRefused, file_of
    from stepserve.database_file import restore as put_back

    try:
        database = file_of(settings)
        saved = file or next(backups(database), None)
        if saved is None:
            stop(f"There is no backup in {database.parent}: name the file.", EXIT_REFUSED)
        kept = put_back(saved, database, settings.layout)
    except BackupRefused as error:
        stop(f"{error}.", EXIT_REFUSED)
    print(f"{database} is {saved} now" + (f"; the previous database is kept as {kept}." if kept else "."))
