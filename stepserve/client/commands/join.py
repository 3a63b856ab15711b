"""`stepserve join`: a gateway that is a member of another machine's control plane."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from stepserve.client.address import KEY_VARIABLE, resolve
from stepserve.client.errors import StepserveError
from stepserve.client.terminal import EXIT_REFUSED, stop, stop_without_server

_PREFIX = "INFERENCE_FLEET__"


def join(
    control: Annotated[
        str, typer.Argument(help="The control plane: a URL such as https://control:8765, or host:port.")
    ],
    port: Annotated[int | None, typer.Option(help="Port to listen on (INFERENCE_PORT).")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on (INFERENCE_HOST).")] = None,
    member_id: Annotated[
        str | None, typer.Option("--id", help="The member's name (default: the machine's name and the port).")
    ] = None,
    zone: Annotated[str | None, typer.Option(help="Where it is, such as a rack or a data centre.")] = None,
    label: Annotated[list[str] | None, typer.Option("--label", help="KEY=VALUE; may be given again.")] = None,
    advertise: Annotated[
        str | None, typer.Option(help="The URL at which control reaches this gateway (default: auto-detected).")
    ] = None,
    base_dir: Annotated[Path | None, typer.Option(help="Where everything is kept (INFERENCE_BASE_DIR).")] = None,
    config: Annotated[Path | None, typer.Option(help="The config file (INFERENCE_CONFIG).")] = None,
) -> None:
    """Start a gateway that serves what a control plane commits, until Ctrl-C.

    The key, with the scope fleet, comes from INFERENCE_FLEET__API_KEY or INFERENCE_API_KEY.
    """
    try:
        url = resolve(control)
    except StepserveError as error:
        stop(str(error), EXIT_REFUSED)
    flags = {
        "INFERENCE_HOST": host,
        "INFERENCE_PORT": port,
        "INFERENCE_BASE_DIR": base_dir,
        "INFERENCE_CONFIG": config and config.absolute(),
        "INFERENCE_UI": False,
        f"{_PREFIX}CONTROL": url,
        f"{_PREFIX}ID": member_id,
        f"{_PREFIX}ZONE": zone,
        f"{_PREFIX}LABELS": json.dumps(dict(map(_pair, label))) if label else None,
        f"{_PREFIX}ADVERTISE": advertise,
        f"{_PREFIX}API_KEY": os.environ.get(f"{_PREFIX}API_KEY") or os.environ.get(KEY_VARIABLE),
    }
    os.environ.update({name: str(value) for name, value in flags.items() if value is not None})
    try:
        from stepserve import supervisor
        from stepserve.setting_origins import load
        from stepserve.setting_sources import SettingsRefused
    except ModuleNotFoundError as error:
        stop_without_server(error)
    try:
        raise typer.Exit(supervisor.run(load(), joins=True))
    except SettingsRefused as error:
        stop(f"Wrong settings: {error}.", EXIT_REFUSED)
    except supervisor.StartRefused as error:
        stop(str(error), EXIT_REFUSED)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        stop(f"--label {text}: not KEY=VALUE.", EXIT_REFUSED)
    return key, value
