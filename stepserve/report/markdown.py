"""A report as Markdown (GitHub's tables). Pure."""

import re
from collections.abc import Sequence

from stepserve.report.blocks import Bars, Block, Bullets, Curve, Document, Heading, Intervals, Paragraph, Table, number

MEDIA_TYPE = "text/markdown; charset=utf-8"
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&$])|^([-+])|(?<=^\d)([.)])(?= )|(?<=^\d\d)([.)])(?= )")
_MOST_POINTS = 12


def rendered(document: Document) -> str:
    """Charts become tables of what they draw."""
    parts = [f"# {_text(document.title)}", *(_block(block) for block in document.blocks)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: Block) -> str:
    match block:
        case Heading():
            said = f"## {_text(block.text)}"
        case Paragraph():
            said = f"**{_text(block.text)}**" if block.tone != "plain" else _text(block.text)
        case Bullets():
            said = "\n".join(f"- {_text(text)}" for text in block.texts)
        case Table():
            table = _table(block.columns, block.rows)
            said = table if block.folded is None else f"### {_text(block.folded)}\n\n{table}"
        case Intervals():
            rows = [[row.label, number(row.value), _interval(row.low, row.high)] for row in block.rows]
            said = f"### {_text(block.title)}\n\n{_table(['', 'value', 'interval'], rows)}" if rows else ""
        case Bars():
            whole = sum(count for _, count in block.rows) or 1
            shares = [[label, str(count), f"{100 * count / whole:.1f} %"] for label, count in block.rows]
            said = f"### {_text(block.title)}\n\n{_table(['', 'count', 'share'], shares)}" if shares else ""
        case Curve():
            every = max(1, -(-len(block.points) // _MOST_POINTS))
            some = [*block.points[:-1:every], *block.points[-1:]]
            points = [[number(one.x), number(one.value), _interval(one.low, one.high)] for one in some]
            title, table = _text(block.title), _table([block.x_label, "value", "interval"], points)
            said = f"### {title}\n\n{table}" if points else ""
    return said


def _interval(low: float, high: float) -> str:
    return f"{number(low)} to {number(high)}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(
        "| " + " | ".join(cell if cell == "---" else _text(cell) for cell in line) + " |" for line in lines
    )


def _text(text: str) -> str:
    """One line in which nothing is markup."""
    return _SPECIAL.sub(r"\\\g<0>", " ".join(text.split()))
