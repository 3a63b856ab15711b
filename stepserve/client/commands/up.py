"""`stepserve up`: the server itself."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from stepserve.client.commands.engine_args import EngineArgs, given
from stepserve.client.terminal import EXIT_REFUSED, stop, stop_without_server

_ARGS_VARIABLE = "INFERENCE_ENGINE__ARGS"


def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on (INFERENCE_HOST).")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on (INFERENCE_PORT).")] = None,
    base_dir: Annotated[Path | None, typer.Option(help="Where everything is kept (INFERENCE_BASE_DIR).")] = None,
    model_path: Annotated[Path | None, typer.Option(help="A checkpoint to register and serve at first.")] = None,
    config: Annotated[Path | None, typer.Option(help="The config file (INFERENCE_CONFIG).")] = None,
    load_in_4bit: Annotated[bool, typer.Option("--load-in-4bit", help="Quantise it to 4 bits when loading.")] = False,
    load_in_8bit: Annotated[bool, typer.Option("--load-in-8bit", help="Quantise it to 8 bits when loading.")] = False,
    no_flash_attention: Annotated[
        bool, typer.Option("--no-flash-attention", help="Another attention backend, on a GPU.")
    ] = False,
    no_ui: Annotated[bool, typer.Option("--no-ui", help="Without the web UI (INFERENCE_UI=false).")] = False,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="Gateways that share this machine's cards (INFERENCE_REPLICAS__COUNT).")
    ] = None,
    gpus_per_replica: Annotated[
        int | None, typer.Option(min=1, help="Cards of each of them (INFERENCE_REPLICAS__GPUS_EACH).")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(help="A Ray cluster that runs the replicas, or auto (INFERENCE_REPLICAS__RAY).")
    ] = None,
    engine_arg: EngineArgs = None,
) -> None:
    """Start the server: gateway, control and the web UI, supervised, until Ctrl-C."""
    flags = {
        "HOST": host,
        "PORT": port,
        "BASE_DIR": base_dir,
        "MODEL_PATH": model_path and model_path.absolute(),
        "CONFIG": config and config.absolute(),
        "LOAD_IN_4BIT": load_in_4bit or None,
        "LOAD_IN_8BIT": load_in_8bit or None,
        "UI": False if no_ui else None,
        "FLASH_ATTENTION": False if no_flash_attention else None,
        "REPLICAS__COUNT": replicas,
        "REPLICAS__GPUS_EACH": gpus_per_replica,
        "REPLICAS__RAY": ray,
    }
    if engine_arg:
        os.environ[_ARGS_VARIABLE] = json.dumps(_already_set() | given(engine_arg))
    os.environ.update({f"INFERENCE_{name}": str(value) for name, value in flags.items() if value is not None})
    try:
        from stepserve import supervisor
        from stepserve.setting_origins import load
        from stepserve.setting_sources import SettingsRefused
    except ModuleNotFoundError as error:
        stop_without_server(error)
    try:
        raise typer.Exit(supervisor.run(load()))
    except SettingsRefused as error:
        stop(f"Wrong settings: {error}.", EXIT_REFUSED)
    except supervisor.StartRefused as error:
        stop(str(error), EXIT_REFUSED)


def _already_set() -> dict[str, object]:
    """By the variable. One that is no JSON object ends the command."""
    try:
        args = json.loads(os.environ.get(_ARGS_VARIABLE) or "{}")
    except ValueError:
        args = None
    if not isinstance(args, dict):
        stop(f"{_ARGS_VARIABLE}: no valid JSON object.", EXIT_REFUSED)
    return args
