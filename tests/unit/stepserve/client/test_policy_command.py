"""`stepserve policy`: files that it reads, what it sends, and what it shows."""

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
from stepserve.client.commands import policy

TOML = """
[match]
id = "step-*"
tags = ["nightly"]

[[evals]]
dataset_ref = "math_eval"
metrics = ["numeric"]

[promotion]
suite = [{dataset_ref = "math_eval", metric = "numeric"}]
"""
WANTED = {
    "match": {"id": "step-*", "tags": ["nightly"]},
    "evals": [{"dataset_ref": "math_eval", "metrics": ["numeric"]}],
    "promotion": {"suite": [{"dataset_ref": "math_eval", "metric": "numeric"}]},
}


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("none.toml", "none.toml cannot be read"),
        ("bad.json", "bad.json is not valid JSON"),
        ("bad.toml", "bad.toml is not valid TOML"),
        ("list.json", "list.json is not an object"),
    ],
)
def test_a_file_that_is_no_policy_is_refused(tmp_path: Path, file: str, reason: str) -> None:
    for name, text in (("bad.json", "{"), ("bad.toml", "["), ("list.json", "[]")):
        (tmp_path / name).write_text(text)
    found = CliRunner().invoke(app, ["policy", "put", "nightly", str(tmp_path / file)])
    assert found.exit_code == 2
    assert reason in found.stderr


def test_toml_and_json_are_the_same_policy_and_runs_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, Any]] = []
    steps = [
        {"step": "evals.0", "job_id": "eval_1", "error": None, "waiting_for": None},
        {"step": "promotion", "job_id": None, "error": "candidate: a is the baseline", "waiting_for": None},
    ]
    stored = WANTED | {
        "name": "nightly",
        "data_gen": None,
        "created_by": "k",
        "runs": [{"model_id": "a", "steps": steps}],
    }

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        asked.append((request.method, request.url.path, body))
        if request.url.path.endswith("/dry_run"):
            shown = [{"step": "evals.0", "request": {"model_id": "a"}, "error": None}]
            return httpx.Response(200, json={"name": "nightly", "model_id": "a", "matches": False, "steps": shown})
        return httpx.Response(200, json={"policies": [stored]} if request.url.path == "/policies" else stored)

    @contextmanager
    def server(_host: str | None) -> Iterator[Client]:
        with Client("http://server", transport=httpx.MockTransport(answer)) as client:
            yield client

    monkeypatch.setattr(policy, "server_at", server)
    (tmp_path / "p.toml").write_text(TOML)
    (tmp_path / "p.json").write_text(json.dumps(WANTED))

    def run(*arguments: str) -> str:
        found = CliRunner().invoke(app, ["policy", *arguments])
        assert found.exit_code == 0, found.output
        return found.stdout

    for file in ("p.toml", "p.json"):
        assert run("put", "nightly", str(tmp_path / file)) == "nightly: 1 eval, promotion of each step-*.\n"
        assert asked[-1] == ("PUT", "/policies/nightly", WANTED)
    assert run("list").splitlines()[1] == "nightly\tstep-*\tnightly\t1 eval, promotion"
    shown = run("show", "nightly").splitlines()
    assert shown[-2:] == ["a\tevals.0\teval_1\t", "a\tpromotion\t\tcandidate: a is the baseline"]
    assert run("dry-run", "nightly", "a").startswith("nightly is not for a.\n")
    assert run("rm", "nightly") == "nightly is removed.\n"
    assert asked[-2:] == [("POST", "/policies/nightly/dry_run", {"id": "a"}), ("DELETE", "/policies/nightly", None)]
