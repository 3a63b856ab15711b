"""`stepserve gc`: free the disk of what the retention settings no longer keep."""

import sqlite3
import time
from typing import Annotated, NoReturn

import typer

from stepserve.client.commands.config import settings_here
from stepserve.client.terminal import EXIT_FAILED, EXIT_REFUSED, AsJson, print_json, step_aside, stop, table


def gc(
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove old runs and logs by the retention settings; never those of an open job or of a shard nobody took."""
    settings = settings_here()
    from stepserve import retention
    from stepserve.database_file import BackupRefused, file_of

    wanted = settings.retention
    if all(value is None for value in wanted.model_dump().values()):
        _end_without_settings(dry_run=dry_run, as_json=as_json)
    layout = settings.layout
    step_aside()
    try:
        finished = retention.finished_jobs(file_of(settings))
    except BackupRefused:
        stop("The jobs are in PostgreSQL, where this command does not look: nothing was removed.", EXIT_REFUSED)
    except sqlite3.Error as error:
        stop(f"The database of {layout.base} cannot be read ({error}): nothing was removed.", EXIT_REFUSED)
    going = retention.what_goes(layout, wanted, finished, time.time())
    failed = {}
    if not dry_run:
        for one in going:
            try:
                retention.remove(one)
            except OSError as error:
                failed[one.path] = str(error)
    if as_json:
        print_json([{"kind": one.kind, "path": str(one.path), "bytes": one.size_bytes} for one in going])
    else:
        total = sum(one.size_bytes for one in going)
        rows = [[one.kind, str(one.path.relative_to(layout.base)), f"{one.size_bytes:,}"] for one in going]
        table(str(layout.base), ["", "path", "bytes"], rows)
        print(f"{len(going)} {'would go' if dry_run else 'went'}, {total:,} bytes.")
    if failed:
        path, why = next(iter(failed.items()))
        stop(f"{len(failed)} could not be removed, such as {path}: {why}", EXIT_FAILED)


def _end_without_settings(*, dry_run: bool, as_json: bool) -> NoReturn:
    """To ask what would go is no mistake; to have it removed without saying what is."""
    reason = "Everything is kept: none of the settings retention.… is set (docs/deploy.md)."
    if not dry_run:
        stop(reason, EXIT_REFUSED)
    if as_json:
        print_json([])
    else:
        print(reason)
    raise typer.Exit(0)
