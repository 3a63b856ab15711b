"""`python -m stepserve.operator` without the start of an interpreter."""

import typer

from stepserve.operator.__main__ import main


def run_operator() -> None:
    typer.run(main)
