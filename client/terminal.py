"""What the commands have in common: where the server is, how things are printed, how errors end."""

import itertools
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from client.server import Server, ServerError, Unreachable, default_url

EXIT_JOB_FAILED = 1
EXIT_REFUSED = 2
EXIT_UNREACHABLE = 3
EXIT_INTERRUPTED = 130

Host = Annotated[
    str | None, typer.Option("--host", help="The server's URL (default: http://$INFERENCE_HOST:$INFERENCE_PORT).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


@contextmanager
def server_at(host: str | None) -> Iterator[Server]:
    """Ends the command with one sentence and an exit code when the server refuses or is not there."""
    server = None
    try:
        server = Server(host or default_url())
        yield server
    except KeyboardInterrupt:
        print("Stopped watching; the job goes on.", file=sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except ServerError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(EXIT_UNREACHABLE if isinstance(error, Unreachable) else EXIT_REFUSED) from None
    finally:
        if server is not None:
            server.close()


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def follow(server: Server, job_id: str) -> dict[str, Any]:
    """A progress bar on stderr until the job is over; the job."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}"),
        TimeElapsedColumn(),
    )
    news = server.watch(job_id)
    first = next(news)  # a job that is not there gets no bar
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(job_id, total=None, pace="")
        for job in itertools.chain([first], news):
            progress = job["progress"]
            text = f"{job_id} {job['status']}"
            if job.get("waiting_for"):
                text += f", waits for {job['waiting_for']}"
            bar.update(
                task,
                description=text,
                completed=progress["done"],
                total=progress["total"],
                pace=_pace(progress),
            )
    return job


def end_with(job: dict[str, Any]) -> None:
    """Exit code 1, saying why, when the job did not end well."""
    if job["status"] != "done":
        print(f"{job['id']} {job['status']}{': ' + job['error'] if job['error'] else ''}", file=sys.stderr)
        raise typer.Exit(EXIT_JOB_FAILED)


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    shown = Table(title=title or None, title_justify="left")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*row)
    Console().print(shown)


def _pace(progress: dict[str, Any]) -> str:
    parts = []
    if progress["rate_per_s"]:
        parts.append(f"{progress['rate_per_s']:.1f}/s")
    if progress["eta_s"] is not None:
        parts.append(f"{progress['eta_s']:.0f} s left")
    return ", ".join(parts)
