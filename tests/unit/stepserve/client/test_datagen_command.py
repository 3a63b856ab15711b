"""`stepserve datagen report`, `explain` and `preview`: what they ask for and what they show."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from stepserve.client.cli import app
from stepserve.client.client import Client
from stepserve.client.commands import datagen

PARTS = ("duplicates", "contamination", "diversity", "lengths", "numbers", "verified", "sources")
REPORT = {
    "published": False,
    "yield": {"attempts": 5, "rejected": {"duplicate": 3}},
    "cost": {"tokens_per_row": 12.5, "joules_per_row": None},
    "job": {part: {"rows": 2, "by": {"kind": 1}} for part in PARTS},
    "limits": [{"name": "min_rows", "limit": 9.0, "value": 2, "is_kept": False}],
}


def _rejection(number: int) -> dict[str, Any]:
    detail = {"question": f"What is {number}?"}
    return {"attempt": number, "reason": "duplicate", "why": "the same as x", "detail": detail}


def _preview(body: dict[str, Any]) -> dict[str, Any]:
    """Two rows, of which the second one is dropped; `order` shows what was asked for."""
    assert body == {"model_id": "m", "config": {"columns": [{"name": "n", "kind": "integers"}]}, "rows": 2}
    turns = [{"role": "user", "content": "What is 3?"}, {"role": "assistant", "content": "A number."}]
    dropped = {"reason": "truncated", "why": "cut off at max_tokens", "detail": {}}
    return {
        "seed": 9,
        "order": ["n", "said"],
        "rows": [
            {
                "attempt": 0,
                "columns": {"n": 3},
                "items": [{"said": {"a": "b"}}, {"said": {"a": "c"}}],
                "examples": [{"messages": turns}],
                "rejected": [],
            },
            {"attempt": 1, "columns": {"n": 4}, "items": [], "examples": [], "rejected": [dropped]},
        ],
    }


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[httpx.URL]:
    """What the server was asked for; it has three pages of rejections, the second one empty."""
    urls: list[httpx.URL] = []
    pages: dict[str | None, dict[str, Any]] = {
        None: {"rejected": [_rejection(1), _rejection(2)], "next": "10.0"},
        "10.0": {"rejected": [], "next": "20.0"},
        "20.0": {"rejected": [_rejection(3)], "next": None},
    }

    def answer(request: httpx.Request) -> httpx.Response:
        urls.append(request.url)
        if request.url.path.endswith("/preview"):
            return httpx.Response(200, json=_preview(json.loads(request.content)))
        if request.url.path.endswith("/report"):
            return httpx.Response(200, json=REPORT)
        page = pages[request.url.params.get("after")]
        return httpx.Response(200, json={"job_id": "j", "by_reason": {"duplicate": 3}, **page})

    @contextmanager
    def server(_host: str | None) -> Iterator[Client]:
        with Client("http://server", transport=httpx.MockTransport(answer)) as client:
            yield client

    monkeypatch.setattr(datagen, "server_at", server)
    return urls


def _run(*arguments: str) -> str:
    found = CliRunner().invoke(app, ["datagen", *arguments])
    assert found.exit_code == 0, found.output
    return found.stdout


def test_explain_reads_as_many_pages_as_it_takes(asked: list[httpx.URL]) -> None:
    lines = _run("explain", "j", "--reason", "duplicate", "--limit", "3").splitlines()
    assert "duplicate\t3" in lines
    assert lines[-3:] == [f"{number}\tduplicate\tthe same as x\tWhat is {number}?" for number in (1, 2, 3)]
    assert [url.params.get("after") for url in asked] == [None, "10.0", "20.0"]
    assert {url.params["reason"] for url in asked} == {"duplicate"}
    del asked[:]
    assert len(json.loads(_run("explain", "j", "--limit", "2", "--json"))["rejected"]) == 2
    assert len(asked) == 1


@pytest.mark.usefixtures("asked")
def test_report_shows_every_part_and_the_limits() -> None:
    lines = _run("report", "j").splitlines()
    assert lines.count("by.kind\t1") == len(PARTS)
    assert {"attempts\t5", "rejected.duplicate\t3", "tokens_per_row\t12.5"} <= set(lines)
    assert lines[-1] == "min_rows\t9.0\t2\tmissed"
    assert json.loads(_run("report", "j", "--json")) == REPORT


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.toml", '[[columns]]\nname = "n"\nkind = "integers"\n'),
        ("p.json", '{"columns": [{"name": "n", "kind": "integers"}]}'),
        ("p.conf", ' {"columns": [{"name": "n", "kind": "integers"}]}'),
    ],
)
def test_a_preview_shows_columns_examples_and_what_is_dropped(
    asked: list[httpx.URL], tmp_path: Path, name: str, text: str
) -> None:
    file = tmp_path / name
    file.write_text(text)
    shown = _run("preview", str(file), "--model", "m", "--rows", "2")
    assert asked[0].path == "/data_gen/pipelines/preview"
    for part in ("row\t0", '{"a": "b"}', "What is 3?", "A number.", "row\t1", "truncated: cut off at max_tokens"):
        assert part in shown
    assert "1 of 2 rows would be kept (1 examples); the seed is 9." in shown


def test_a_file_with_a_date_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("when = 2026-01-01\n")
    found = CliRunner().invoke(app, ["datagen", "preview", str(tmp_path / "p.toml")])
    assert (found.exit_code, "write it as text" in found.output) == (2, True)
