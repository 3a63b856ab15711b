"""A report, written to a file or to stdout: for `stepserve promote report` and `stepserve eval report`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from stepserve.client.calls import ReportFormat
from stepserve.client.terminal import EXIT_REFUSED, stop

Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="Write to this file (.md: Markdown, else HTML); default: stdout.")
]
Format = Annotated[
    Literal["html", "markdown"] | None, typer.Option("--format", help="html or markdown; default: by the file's name.")
]

_MARKDOWN_SUFFIXES = {".md", ".markdown"}


def format_for(out: Path | None, wanted: ReportFormat | None) -> ReportFormat:
    """On a terminal Markdown, which can be read there."""
    if wanted is not None:
        return wanted
    return "markdown" if out is None or out.suffix.lower() in _MARKDOWN_SUFFIXES else "html"


def deliver(report: str, out: Path | None) -> None:
    if out is None:
        print(report, end="")
        return
    try:
        out.write_text(report, encoding="utf-8")
    except OSError as error:
        stop(f"--out: {out} cannot be written: {error.strerror}.", EXIT_REFUSED)
    print(out)
