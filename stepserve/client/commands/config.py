"""`stepserve config`: which settings a server started here would have, and from where."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stepserve.client.terminal import EXIT_REFUSED, AsJson, print_json, stop_without_server, table

if TYPE_CHECKING:
    from stepserve.setting_origins import Setting
    from stepserve.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Look at the settings of a server that is started here.")


@app.command()
def show(
    *,
    changed: Annotated[bool, typer.Option("--changed", help="Only what is not a default.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print every setting, its value and where it comes from; secrets are asterisks."""
    settings = [each for each in _effective() if not changed or each.origin != "default"]
    if as_json:
        print_json({each.name: {"value": each.value, "origin": each.origin} for each in settings})
    else:
        table("", ["setting", "value", "from"], [[each.name, _text(each.value), each.origin] for each in settings])


@app.command()
def check(
    file: Annotated[Path | None, typer.Argument(help="A config file to check instead of the one in use.")] = None,
) -> None:
    """Check the config file and the environment; exit code 2, naming each wrong setting."""
    if file is not None:
        os.environ["INFERENCE_CONFIG"] = str(file)
    settings = _effective()
    from stepserve.setting_sources import config_file

    used = config_file()
    changed = sum(each.origin != "default" for each in settings)
    print(
        f"{used or 'No config file'}: all is understood, {changed} of {len(settings)} settings differ from the default."
    )


def _effective() -> "list[Setting]":
    settings = settings_here()
    from stepserve.setting_origins import origins

    return origins(settings)


def settings_here() -> "Settings":
    """What a server that is started here would have; ends the program, saying why, when that cannot be told."""
    try:
        from stepserve.setting_origins import load
        from stepserve.setting_sources import SettingsRefused
    except ModuleNotFoundError as error:
        stop_without_server(error)
    try:
        return load()
    except SettingsRefused as error:
        print(f"Wrong settings: {error}.", file=sys.stderr)
        raise typer.Exit(EXIT_REFUSED) from None


def _text(value: Any) -> str:
    return "-" if value is None else str(value)
