"""Tables: what others wrote is text, ids stay whole at 80 columns, and a pipe gets lines with tabs."""

import os
import pty
import sys
from collections.abc import Callable

import pytest

from stepserve.client.terminal import table

HOSTILE = "[/red] x [link=http://a]y"
MODEL = "a-model-with-a-rather-long-name-step-0001500"
COLUMNS = ["", "model", "step", "size", "source", "tags", "registered"]
ROWS = [["*", MODEL, "1500", "2.5 MB", "a source", HOSTILE, "2026-11-30T00:00:00+00:00"]]


def on_a_terminal(show: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> str:
    ours, theirs = pty.openpty()
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        show()
        terminal.flush()
        monkeypatch.undo()
        return os.read(ours, 65536).decode()


def test_a_tag_that_looks_like_markup_is_shown_and_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = on_a_terminal(lambda: table("[/b]", ["model", "tags"], [["m", HOSTILE]]), monkeypatch)
    assert HOSTILE in shown
    assert "[/b]" in shown


def test_ids_are_whole_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = on_a_terminal(lambda: table("", COLUMNS, ROWS), monkeypatch)
    assert MODEL in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_terminal_is_told_that_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_a_terminal(lambda: table("", ["job"], [], none="No jobs."), monkeypatch).strip() == "No jobs."


def test_a_pipe_gets_lines_with_tabs(capsys: pytest.CaptureFixture[str]) -> None:
    table("title", ["model", "tags"], [["m", "two\nlines\tand \x1b[31m"], ["n", ""]])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["model\ttags", "m\ttwo\\nlines\\tand \\x1b[31m", "n\t"]
