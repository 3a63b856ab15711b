"""docs/decisions/README.md: the decisions by number, each with its status."""

import re
from pathlib import Path

_HEAD = """# Decisions

Each page says what was decided, why, and what else was considered; a reader would question it otherwise.
`python -m reference` makes this list. A decision is *accepted* unless its page has a line `**Status.** …`.

| | decision | status |
|---|---|---|
"""
_NUMBER = re.compile(r"^\s*(\d+)[.:]\s*")
_STATUS = re.compile(r"^\*\*Status\.\*\* (.+)$", re.MULTILINE)


def page(folder: Path) -> str:
    """The list. Blocks."""
    return _HEAD + "".join(map(_row, sorted(folder.glob("[0-9]*.md"))))


def _row(file: Path) -> str:
    text = file.read_text()
    title = _NUMBER.sub("", text.partition("\n")[0].removeprefix("# "))
    found = _STATUS.search(text)
    return f"| {int(file.name[:4])} | [{title}]({file.name}) | {found[1] if found else 'accepted'} |\n"
