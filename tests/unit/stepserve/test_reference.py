"""The pages of docs/ that the program writes are up to date: `make reference` renews them."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

from reference import commands, decisions, settings
from reference.__main__ import COMMANDS, DECISIONS, SETTINGS
from stepserve.client.cli import app
from stepserve.client.commands.default_command import RunsByDefault
from tests.documents import REPOSITORY, Block

_INLINE = re.compile(r"`stepserve ([a-z][^`\n]*)`")
_LINE = re.compile(r"^ *stepserve ([a-z][^\n#|>&;]*)", re.MULTILINE)
_READ = [REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md"), *(REPOSITORY / "ui").rglob("*.py")]


def test_the_page_of_commands_is_what_the_program_says() -> None:
    assert commands.page() == COMMANDS.read_text()


def test_types_and_defaults_of_the_page_of_settings_are_the_programs() -> None:
    assert settings.filled(SETTINGS.read_text()) == SETTINGS.read_text()


def test_a_setting_without_a_row_and_a_row_without_a_setting_are_found() -> None:
    page = SETTINGS.read_text()
    without = "".join(line for line in page.splitlines(keepends=True) if "`INFERENCE_JOB_LEASE_S`" not in line)
    with pytest.raises(settings.Undocumented, match="INFERENCE_JOB_LEASE_S"):
        settings.filled(without)
    with pytest.raises(settings.Undocumented, match="INFERENCE_NOTHING"):
        settings.filled(page + "| `INFERENCE_NOTHING` | integer | `1` | nothing |\n")


def test_the_list_of_decisions_is_that_of_the_folder() -> None:
    assert decisions.page(DECISIONS.parent) == DECISIONS.read_text()


def _said() -> Iterator[tuple[Path, str]]:
    """Commands in code: between backticks, or at the beginning of a line of a block."""
    for file in _READ:
        for pattern in (_INLINE, _LINE):
            for found in pattern.finditer(file.read_text()):
                yield file.relative_to(REPOSITORY), found[1]


def test_every_command_that_documents_and_pages_name_is_one() -> None:
    wrong = []
    for file, said in _said():
        command = get_command(app)
        for word in said.replace("|", " ").split():
            commands_below = getattr(command, "commands", None)
            if commands_below is None or word.startswith(("-", "…", "[")):
                break
            if word not in commands_below and isinstance(command, RunsByDefault):
                break  # the first argument of the command that may be left out
            if word not in commands_below:
                wrong.append(f"{file}: stepserve {said}")
                break
            command = commands_below[word]
    assert not wrong


def test_what_a_document_promises_is_told_from_what_is_said() -> None:
    block = Block("a.md", 1, "bash", "echo", "a: …\n…\nend\n")
    assert block.difference("a: 1\nx\ny\nend\n") is None
    assert block.difference("a: 1\nend\n") is None
    assert block.difference("b: 1\nend\n") is not None
    assert block.difference("a: 1\nend\nmore\n") is not None
