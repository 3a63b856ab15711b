"""A terminal session as an SVG that plays: commands are typed, and what they printed appears as it did.

It plays once and needs no program; where motion is not wanted, or not supported, the whole session is shown.
"""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from rich.cells import cell_len
from rich.text import Text

COLUMNS = 92
_ROWS = 40
_LETTER_S = 0.03
_PAUSE_S = 0.7
_LONGEST_WAIT_S = 1.5  # of a command in the picture, however long it took
_GUARD_S = 240.0
_WIDTH, _HEIGHT = 8.4, 18  # pixels of a cell
_MARGIN = 16
_PAPER, _INK, _PROMPT = "#0d1117", "#d0d7de", "#3fb950"


@dataclass(frozen=True, slots=True)
class Line:
    """`at_s`: when it appears, from the command's start."""

    at_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Played:
    command: str
    lines: Sequence[Line]


def play(command: str, environment: Mapping[str, str]) -> Played:
    """Runs `stepserve …` on a terminal of its own, COLUMNS wide. Raises AssertionError where it fails."""
    ours, theirs = pty.openpty()
    known = {"COLUMNS": str(COLUMNS), "LINES": str(_ROWS), "TERM": "xterm-256color"}
    program = [str(Path(sys.executable).with_name("stepserve")), *command.split()[1:]]
    began = time.monotonic()
    process = subprocess.Popen(
        program, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, **environment, **known}
    )
    os.close(theirs)
    pieces: list[tuple[float, bytes]] = []
    while time.monotonic() - began < _GUARD_S:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            pieces.append((time.monotonic() - began, piece))
    os.close(ours)
    code = process.wait(_GUARD_S)
    printed = b"".join(piece for _, piece in pieces)
    assert code == 0, printed.decode()
    return Played(command, _lines(pieces))


def _lines(pieces: Sequence[tuple[float, bytes]]) -> list[Line]:
    """What stays on the screen: of a line that is drawn again, as a progress bar is, the last state."""
    lines, rest = [], ""
    for at_s, piece in pieces:
        *whole, rest = (rest + piece.decode(errors="replace")).split("\n")
        for line in whole:
            text = line.rstrip("\r").rpartition("\r")[2]
            lines.append(Line(at_s, text))
    return lines if not rest.strip() else [*lines, Line(pieces[-1][0], rest)]


def as_svg(session: Sequence[Played]) -> str:
    rows: list[str] = []
    clock = 0.5
    for played in session:
        typed_s = len(played.command) * _LETTER_S
        rows.append(_typed(played.command, len(rows), clock, typed_s))
        clock += typed_s + 0.2
        for line in played.lines:
            rows.append(_row(line.text, len(rows), clock + min(line.at_s, _LONGEST_WAIT_S)))
        clock += min(played.lines[-1].at_s if played.lines else 0.0, _LONGEST_WAIT_S) + _PAUSE_S
        rows.append("")
    width = round(COLUMNS * _WIDTH + 2 * _MARGIN)
    height = len(rows) * _HEIGHT + 2 * _MARGIN
    commands = escape("; ".join(played.command for played in session))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        f' role="img"><title>A terminal session: {commands}</title><style>'
        f"text{{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;fill:{_INK};white-space:pre}}"
        ".l{animation:l .01s both}@keyframes l{from{opacity:0}}"
        ".w{animation:w both linear}@keyframes w{from{clip-path:inset(0 100% 0 0)}to{clip-path:inset(0 0 0 0)}}"
        "@media(prefers-reduced-motion){.l,.w{animation:none}}</style>"
        f'<rect width="{width}" height="{height}" rx="8" fill="{_PAPER}"/>{"".join(rows)}</svg>\n'
    )


def _typed(command: str, row: int, at_s: float, takes_s: float) -> str:
    prompt = f'<text x="{_MARGIN}" y="{_y(row)}" style="fill:{_PROMPT}">$</text>'
    style = f"animation-duration:{takes_s:.2f}s;animation-delay:{at_s:.2f}s"
    return f'{prompt}<text class="w" style="{style}" x="{_x(2)}" y="{_y(row)}">{escape(command)}</text>'


def _row(text: str, row: int, at_s: float) -> str:
    drawn = Text.from_ansi(text)
    spans, column = [], 0
    for piece in drawn.divide(sorted({0, *(edge for span in drawn.spans for edge in (span.start, span.end))})):
        if piece.plain.strip():
            style = _style(piece)
            spans.append(f'<tspan x="{_x(column)}"{style}>{escape(piece.plain)}</tspan>')
        column += cell_len(piece.plain)
    if not spans:
        return ""
    return f'<text class="l" style="animation-delay:{at_s:.2f}s" y="{_y(row)}">{"".join(spans)}</text>'


def _style(piece: Text) -> str:
    bold = any(not isinstance(span.style, str) and span.style.bold for span in piece.spans)
    colours = [span.style.color for span in piece.spans if not isinstance(span.style, str) and span.style.color]
    said = "font-weight:bold;" if bold else ""
    if colours:
        said += f"fill:{colours[-1].get_truecolor().hex}"
    return f' style="{said}"' if said else ""


def _x(column: int) -> str:
    return f"{_MARGIN + column * _WIDTH:g}"


def _y(row: int) -> int:
    return _MARGIN + 14 + row * _HEIGHT
