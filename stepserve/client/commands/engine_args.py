"""`--engine-arg key=value` and `--device`, as several commands take them."""

from typing import Annotated, Any

import typer

from stepserve.engine_arguments import parse

EngineArgs = Annotated[
    list[str] | None,
    typer.Option(
        "--engine-arg",
        metavar="KEY=VALUE",
        help="An engine argument of vLLM, such as tensor_parallel_size=2; may be given several times.",
    ),
]

Devices = Annotated[
    list[str] | None,
    typer.Option("--device", help="A card that it may go on, by number or id; may be given several times."),
]


def given(args: list[str]) -> dict[str, Any]:
    """The arguments by their names; a value that is JSON is taken as JSON. Raises typer.BadParameter."""
    try:
        return dict(parse(arg) for arg in args)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--engine-arg") from error


def engine_wish(args: list[str] | None, devices: list[str] | None = None) -> dict[str, Any]:
    """What the body of a registration or a pull says of them; nothing without any."""
    wish = ({"args": given(args)} if args else {}) | ({"devices": devices} if devices else {})
    return {"engine": wish} if wish else {}
