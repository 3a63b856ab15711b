"""`stepserve traffic` and `stepserve feedback`: what they ask, and what they show."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from stepserve.client.cli import app
from stepserve.client.client import Client
from stepserve.client.commands import traffic

RATED = {"request_id": "req/1", "key_id": "k", "rating": -1, "correction": "four", "rated_by": "k", "rated_at": "t"}
CONSENT = {
    "key_id": "k", "keep": True, "history": [{"keep": True, "by": "boss", "at": "2026-01-31"}],
    "kept": {"requests": 3, "size_bytes": 2100}, "server": {"on": True, "share": 0.25},
}  # fmt: skip
KEPT = {
    "requests": [
        {"request_id": "req/1", "key_id": "k", "answered_at": "2026-01-31T00:00:00", "model": "m", "feedback": RATED}
    ],
    "next": None,
}

Command = Callable[..., tuple[Result, list[tuple[str, str, Any]]]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs one on a server that gives `answer`; what was asked: method, path with query, body."""

    def run(*arguments: str, answer: Any, stdin: str | None = None) -> tuple[Result, list[tuple[str, str, Any]]]:
        asked: list[tuple[str, str, Any]] = []

        def serve(request: httpx.Request) -> httpx.Response:
            body = json.loads(request.content) if request.content else None
            asked.append((request.method, request.url.raw_path.decode(), body))
            return httpx.Response(200, json=answer)

        @contextmanager
        def server_at(_: str | None) -> Iterator[Client]:
            with Client("http://server", transport=httpx.MockTransport(serve)) as client:
                yield client

        monkeypatch.setattr(traffic, "server_at", server_at)
        return CliRunner().invoke(app, list(arguments), input=stdin), asked

    return run


def test_feedback_says_what_would_have_been_right(command: Command) -> None:
    done, asked = command("feedback", "req/1", "bad", "--correction", "-", answer=RATED, stdin="four\n")
    assert done.stdout == "req/1: bad, corrected\n"
    assert asked == [("POST", "/feedback", {"request_id": "req/1", "rating": -1, "correction": "four"})]


def test_consent_is_shown_given_and_withdrawn(command: Command) -> None:
    shown, asked = command("traffic", "consent", answer=CONSENT)
    assert asked == [("GET", "/traffic/consent", None)]
    assert "3 requests, 2.1 kB" in shown.stdout
    assert "25% of such requests" in shown.stdout
    for option, keep in (("--give", True), ("--withdraw", False)):
        _, asked = command("traffic", "consent", option, answer=CONSENT)
        assert asked == [("PUT", "/traffic/consent", {"keep": keep})]


def test_what_is_kept_is_listed(command: Command) -> None:
    shown, asked = command("traffic", "list", "--rated", "--key", "k", answer=KEPT)
    assert asked == [("GET", "/traffic/requests?key_id=k&rated=true&limit=20", None)]
    assert "bad, corrected" in shown.stdout


def test_all_is_deleted_only_where_that_is_said(command: Command) -> None:
    for arguments in ((), ("req/1", "--all")):
        refused, asked = command("traffic", "delete", *arguments, answer={})
        assert (refused.exit_code, asked) == (2, [])
    _, asked = command("traffic", "delete", "req/1", answer={"deleted": 1, "key_id": "k"})
    assert asked == [("DELETE", "/traffic/requests/req/1", None)]
    done, asked = command("traffic", "delete", "--all", answer={"deleted": 7, "key_id": "k"})
    assert asked == [("DELETE", "/traffic/requests", None)]
    assert done.stdout == "7 deleted of k.\n"


def test_a_dataset_is_made(command: Command) -> None:
    answer = {"name": "a.jsonl", "size_bytes": 12, "digest": "sha256:d"}
    done, asked = command("traffic", "dataset", "a.jsonl", "--kind", "dpo", answer=answer)
    wanted = {"name": "a.jsonl", "kind": "dpo", "prompts": "chat", "replace": False}
    assert asked == [("POST", "/traffic/datasets", wanted)]
    assert done.stdout == "a.jsonl: 12 B, sha256:d\n"
