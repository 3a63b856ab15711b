"""docs/reference/commands.md, out of the command line's own help."""

from collections.abc import Iterator

import typer
from typer.main import get_command

from reference.schema import cell
from stepserve.client.cli import app

_HEAD = """# Every command and option

Written from the command line's own help by `make reference`. [The command line](../cli.md) says what holds for all of
them: `--host`, `--json`, exit codes.
"""


def page() -> str:
    root = get_command(app)
    context = typer.Context(root, info_name="stepserve")
    return _HEAD + "".join(_commands(root, context))


def _commands(command: object, context: typer.Context) -> Iterator[str]:
    commands = getattr(command, "commands", None)
    if commands is None:
        yield _command(context)
        return
    for name, inner in commands.items():
        yield from _commands(inner, typer.Context(inner, info_name=name, parent=context))


def _command(context: typer.Context) -> str:
    command = context.command
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [f"\n## {context.command_path}\n\n{command.help or ''}\n\n    {usage}\n"]
    rows = []
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None and parameter.name not in {"help", "install_completion", "show_completion"}:
            name, text = record
            rows.append(f"| `{cell(name)}` | {cell(text)} |\n")
    if rows:
        parts.append("\n| | |\n|---|---|\n" + "".join(rows))
    return "".join(parts)
