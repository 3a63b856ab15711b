"""What commands print for a person."""

import os
import pty
import sys
from collections.abc import Callable

import pytest
import typer

from stepserve.client.log_text import log_text
from stepserve.client.terminal import EXIT_REFUSED, pair, table

JOB = "data_gen_20251122_053000_k3f9"
DIGEST = "sha256:" + "0123456789abcdef" * 4
HOSTILE = "[/red] x [link=http://a]y"


def on_a_terminal(show: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> str:
    ours, theirs = pty.openpty()
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
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


def test_ids_stay_in_one_piece_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = ["job", "type", "model", "status", "digest", "error"]
    error = "its model was removed while the job was waiting for it, and so it cannot be done"
    row = [JOB, "data_gen", "current_checkpoint", "failed", DIGEST, error]
    printed = on_a_terminal(lambda: table("", columns, [row]), monkeypatch)
    for whole in (JOB, "current_checkpoint", DIGEST):
        assert whole in printed
    assert error not in printed, "a text is broken, so that the table is no wider than it must be"


def test_a_table_that_fits_is_not_made_wider(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = on_a_terminal(lambda: table("", ["job", "error"], [[JOB, "a text " * 30]]), monkeypatch)
    assert len(printed.splitlines()[0]) == 80


def test_the_list_of_jobs_fits_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = ["job", "model", "status", "progress", "created", "remark"]
    row = ["eval_20251122_053000_k3f9", "step-1500", "done", "80/80", "2025-11-22 05:30:00 UTC", ""]
    printed = on_a_terminal(lambda: table("", columns, [row]), monkeypatch)
    assert len(printed.splitlines()[0]) <= 80
    assert "remark" not in printed
    assert "2025-11-22" in printed


def test_a_terminal_is_told_that_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert on_a_terminal(lambda: table("", ["job"], [], none="No jobs."), monkeypatch).strip() == "No jobs."


def test_a_pipe_gets_lines_with_tabs(capsys: pytest.CaptureFixture[str]) -> None:
    table("title", ["model", "tags"], [["m", "two\nlines\tand \x1b[31m"], ["n", ""]])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["model\ttags", "m\ttwo\\nlines\\tand \\x1b[31m", "n\t"]


def test_a_line_of_the_log_is_text() -> None:
    request = {
        "level": "INFO", "logger": "gateway", "component": "gateway", "event": "request", "method": "POST",
        "path": "/v1/completions", "status": 200, "time": "2026-11-30T02:56:59+00:00",
    }  # fmt: skip
    text = log_text(request)
    assert text.endswith("INFO    gateway event=request method=POST path=/v1/completions status=200")
    assert ":56:59 " in text
    assert "{" not in text


def test_a_message_comes_before_the_facts_and_a_traceback_after_them() -> None:
    line = (
        '{"level": "ERROR", "message": "it failed", "job_id": "eval_1", "why": "no room",'
        ' "exc_info": "Traceback:\\n  x",'
        ' "component": "control", "time": "2026-11-30T02:56:59+00:00"}'
    )
    first, *rest = log_text(line).splitlines()
    assert first.endswith('ERROR   control it failed job_id=eval_1 why="no room"')
    assert rest == ["Traceback:", "  x"]


@pytest.mark.parametrize("line", ["(EngineCore pid=7) INFO: ready", '{"not": "ours"}', "[1]"])
def test_other_lines_are_left_as_they_are(line: str) -> None:
    assert log_text(line) == line


def test_a_value_of_an_option_is_json_or_else_a_text(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["n=3", "names=[1]", "name=a b", "sum=1+1=2", "empty="]
    assert [pair("--set", text) for text in given] == [
        ("n", 3), ("names", [1]), ("name", "a b"), ("sum", "1+1=2"), ("empty", "")
    ]  # fmt: skip
    with pytest.raises(typer.Exit) as ended:
        pair("--arg", "what")
    assert (ended.value.exit_code, capsys.readouterr().err) == (EXIT_REFUSED, "--arg what: write key=value.\n")
