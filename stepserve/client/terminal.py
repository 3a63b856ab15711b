"""What the commands have in common: where the server is, how things are printed, how errors end."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stepserve.client.client import Client
from stepserve.client.errors import (
    Forbidden,
    JobFailed,
    NotStepserve,
    OtherVersion,
    StepserveError,
    Unauthorized,
    Unavailable,
    Unreachable,
    WaitedTooLong,
)
from stepserve.client.progress import job_bar
from stepserve.client.results import Job, Result

EXIT_FAILED = 1  # what was asked for was tried and did not work: a job failed, a check is red
EXIT_REFUSED = 2  # the server, or this command, says no
EXIT_UNREACHABLE = 3  # no Stepserve server answers there
EXIT_KEY = 4  # no key, a bad one, or one that may not do this
EXIT_NOT_PROMOTED = 5  # a promotion was refused …
EXIT_UNDECIDED = 6  # … or is open; 3 and 4 were taken
EXIT_INTERRUPTED = 130

RETRY_S = 2.0
_NICENESS = 10
_LONGEST_WHOLE = 72  # characters of a cell: a digest, not a list of settings
_NARROWEST_TEXT = 10  # a date
PATIENCE_S = 60.0  # how long a server that went away is waited for while a job is watched

Host = Annotated[
    str | None,
    typer.Option("--host", help="The server: a URL, host:port, or a name in hosts.json (default: the environment's)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def step_aside() -> None:
    """For upkeep beside a running server, which comes first where cores are few."""
    os.nice(_NICENESS)


@contextmanager
def server_at(host: str | None, *, interrupted: str = "Stopped.") -> Iterator[Client]:
    """Ends the command with one sentence and an exit code when the server refuses or is not there."""
    server = None
    try:
        server = Client(host, retry_s=RETRY_S)
        yield server
    except KeyboardInterrupt:
        stop(interrupted, EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # `| head` has seen enough
        raise typer.Exit(0) from None
    except StepserveError as error:
        stop(str(error), exit_code(error))
    finally:
        if server is not None:
            server.close()


def exit_code(error: StepserveError) -> int:
    match error:
        case Unreachable() | Unavailable() | NotStepserve() | OtherVersion():
            return EXIT_UNREACHABLE
        case Unauthorized() | Forbidden():
            return EXIT_KEY
        case JobFailed() | WaitedTooLong():
            return EXIT_FAILED
        case _:
            return EXIT_REFUSED


def stop_without_server(error: ModuleNotFoundError) -> NoReturn:
    """For a command that runs parts of the server here, where a training box has none."""
    stop(
        f"The server is not installed here ({error.name} is missing): it is the distribution stepserve-server.",
        EXIT_REFUSED,
    )


def stop(reason: str, code: int) -> NoReturn:
    print(reason, file=sys.stderr)
    raise typer.Exit(code) from None


def pair(option: str, text: str) -> tuple[str, Any]:
    """What `key=value` says, given with an option; a value that is not JSON is a text. Ends the command when there is
    no `=`.
    """
    key, equals, value = text.partition("=")
    if not equals:
        stop(f"{option} {text}: write key=value.", EXIT_REFUSED)
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def print_json(value: Any) -> None:
    print(json.dumps(_plain(value), indent=2, ensure_ascii=False))


def follow(server: Client, job_id: str) -> Job:
    """A progress bar on stderr until the job is over; the job, however it ended."""
    job: Job | None = None
    with job_bar(job_id) as show:
        for news in server.watch_job(job_id, PATIENCE_S):
            show(news)
            job = news.job or job
    assert job is not None, "a watch ends with the whole job"
    return job


def end_with(job: Job) -> None:
    """Exit code 1, saying why, when the job did not end well."""
    if job.status != "done":
        stop(str(JobFailed(job)), EXIT_FAILED)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, none: str = "") -> None:
    """On a terminal a drawn table, or `none` where there are no rows; elsewhere a line a row, its cells between tabs.

    Cells are shown as they are: what a model or a person wrote is no markup, and moves no cursor. Ids, paths and
    numbers stay in one piece, to be copied and searched for, even if that makes a line longer than the terminal is
    wide; texts are broken, and columns without any value left out.
    """
    rows = [[_shown(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            print("\t".join(row))
    elif not rows and none:
        print(none)
    else:
        filled = [number for number in range(len(columns)) if any(row[number] for row in rows)]
        _draw(title, [columns[number] for number in filled], [[row[number] for number in filled] for row in rows])


def _draw(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    drawn = Table(title=Text(title) if title else None, title_justify="left", show_header=any(columns))
    least = 1
    for number, column in enumerate(columns):
        cells = [column, *(row[number] for row in rows)]
        widest = max(map(cell_len, cells))
        is_whole = widest <= _LONGEST_WHOLE and not any(" " in cell for cell in cells[1:])
        least += 3 + (widest if is_whole else min(widest, _NARROWEST_TEXT))
        drawn.add_column(column, no_wrap=is_whole, overflow="fold")
    for row in rows:
        drawn.add_row(*map(Text, row))
    console = Console()
    console.width = max(console.width, least)
    console.print(drawn, soft_wrap=False)


def _shown(cell: str) -> str:
    """On one line; what is no printable character is written as Python does: \\x1b."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in cell)


def facts(title: str, pairs: Sequence[tuple[str, Any]]) -> None:
    """Names and values, those without a value left out."""
    table(title, ["", ""], [[name, str(value)] for name, value in pairs if value not in (None, "", [])])


def bytes_in_words(count: float | None) -> str:
    if count is None:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _plain(value: Any) -> Any:
    if isinstance(value, Result):
        return value.as_json()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
