"""A group whose first word may be left out: `stepserve promote step-1500 …` is `stepserve promote run step-1500 …`."""

from collections.abc import Sequence
from typing import Any

from typer.core import TyperGroup

DEFAULT = "run"
_OF_THE_GROUP = frozenset({"-h", "--help"})


class RunsByDefault(TyperGroup):
    """What is none of its commands, nor a call for help, goes to the command `run`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, with_default(args, list(self.commands)))


def with_default(args: Sequence[str], commands: Sequence[str]) -> list[str]:
    """The arguments with the command's name before them, if there is none."""
    named = bool(args) and (args[0] in commands or args[0] in _OF_THE_GROUP)
    return list(args) if named else [DEFAULT, *args]
