"""`--engine-arg key=value`, as several commands take it."""

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


def given(args: list[str]) -> dict[str, Any]:
    """The arguments by their names; a value that is JSON is taken as JSON. Raises typer.BadParameter."""
    try:
        return dict(parse(arg) for arg in args)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--engine-arg") from error


def engine_wish(args: list[str] | None) -> dict[str, Any]:
    """What the body of a registration or a pull says of them; nothing without any."""
    return {"engine": {"args": given(args)}} if args else {}
