"""The `switchyard` command."""

import os
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from client.commands import config, evals, jobs
from switchyard import __version__

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False)
app.add_typer(jobs.app, name="jobs")
app.add_typer(evals.app, name="eval")
app.add_typer(config.app, name="config")

EXIT_REFUSED = 2


def _show_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True)] = False,
) -> None:
    """Serve, switch, evaluate and feed the checkpoints of a training run."""


@app.command()
def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on (INFERENCE_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (INFERENCE_PORT).")] = None,
    base_dir: Annotated[Path | None, typer.Option(help="Where everything is kept (INFERENCE_BASE_DIR).")] = None,
    model_path: Annotated[Path | None, typer.Option(help="A checkpoint to register and serve at first.")] = None,
) -> None:
    """Start the server: gateway and control, supervised, until Ctrl-C."""
    flags = {"HOST": host, "PORT": port, "BASE_DIR": base_dir, "MODEL_PATH": model_path and model_path.absolute()}
    os.environ.update({f"INFERENCE_{name}": str(value) for name, value in flags.items() if value is not None})
    try:
        from switchyard import supervisor  # noqa: PLC0415
        from switchyard.setting_origins import load  # noqa: PLC0415
        from switchyard.setting_sources import SettingsRefused  # noqa: PLC0415
    except ModuleNotFoundError as error:
        _refuse(f"The server's parts are not installed ({error.name} is missing): pip install 'switchyard[cpu]'.")
    try:
        raise typer.Exit(supervisor.run(load()))
    except SettingsRefused as error:
        _refuse(f"Wrong settings: {error}.")
    except supervisor.StartRefused as error:
        _refuse(str(error))


def _refuse(reason: str) -> NoReturn:
    print(reason, file=sys.stderr)
    raise typer.Exit(EXIT_REFUSED)


def main() -> None:
    app()
