"""Training data out of a real model: the scripts that people have, and what a trainer then finds."""

import io
import json
import os
import re
import subprocess
from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests import debian
from tests.e2e.server import EARLY, FINAL_ID, TASK_WRITER, Server, answer_of
from tests.eventually import wait_until

SUMS = [{"a": a, "b": b} for a in range(10, 100, 3) for b in range(11, 100, 7)]
SCRIPT = """
set -eu
JOB=$(curl -sf $URL/data_gen/jobs -H 'Content-Type: application/json' -d "$BODY" | jq -r .job_id)
while true; do
    STATUS=$(curl -sf $URL/data_gen/jobs/$JOB | jq -r .status)
    case $STATUS in done|failed|cancelled) break;; esac
    sleep 0.2
done
echo "$STATUS"
for shard in $(curl -sf $URL/data_gen/jobs/$JOB | jq -r '.shards[]'); do
    cat $INFERENCE_MODELS_DIR/../train_shards_out/$shard
done
"""


def _by_script(server: Server, body: dict[str, Any]) -> tuple[str, list[dict[str, Any]]]:
    """The status that the script ends with, and the rows that it copies."""
    for program in ("bash", "curl", "jq"):
        debian.program(program)
    environment = {**os.environ, "URL": server.url, "BODY": json.dumps(body)}
    environment["INFERENCE_MODELS_DIR"] = str(server.models_dir)
    done = subprocess.run(
        ["bash", "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=240, check=True
    )
    status, *rows = done.stdout.splitlines()
    return status, [json.loads(row) for row in rows]


def _generate(server: Server, strategy: str, model_id: str = FINAL_ID, **config: Any) -> dict[str, Any]:
    made = server.http.post("/data_gen/jobs", json={"model_id": model_id, "strategy": strategy, "config": config})
    assert made.status_code == 200, made.text
    server.job(made.json()["job_id"])
    job: dict[str, Any] = server.http.get(f"/data_gen/jobs/{made.json()['job_id']}").json()
    return job


def _rows(server: Server, job: dict[str, Any]) -> list[dict[str, Any]]:
    folder = server.base_dir / "train_shards_out"
    return [json.loads(line) for name in job["shards"] for line in (folder / name).read_text().splitlines()]


def _is_right(row: dict[str, Any]) -> bool:
    """Whether the answer ends with the sum: what a model puts in front of it, chance decides."""
    question, answer = (turn["content"] for turn in row["messages"])
    a, b = question.removeprefix("What is ").removesuffix("?").split("+")
    return int(re.findall(r"[0-9]+", answer)[-1]) == int(a) + int(b)


def test_the_script_that_generates_training_data(server: Server) -> None:
    config = {"template": "What is {{a}}+{{b}}?", "rows": SUMS, "verify": "executed", "num_examples": 200}
    body = {"model_id": FINAL_ID, "strategy": "custom", "config": {**config, "output_dir": "train_shards_out"}}
    status, rows = _by_script(server, body)
    assert status == "done"
    assert len(rows) == 200
    assert all(_is_right(row) for row in rows)
    sealed = (server.base_dir / "datasets" / "math_eval.jsonl").read_text()
    assert not any(row["messages"][0]["content"] in sealed for row in rows)
    spoilt = {"target_domain": "math", "num_samples": 5, "max_attempts": 20}
    status, rows = _by_script(server, {"model_id": FINAL_ID, "strategy": "self_instruct", "config": spoilt})
    assert (status, rows) == ("failed", []), "a model that only adds makes no problems"


def test_a_trainer_takes_shards_over_http(server: Server) -> None:
    config: dict[str, Any] = {
        "template": "Add {{a}}+{{b}}",
        "rows": SUMS[:40],
        "shard_size": 15,
        "format": "alpaca",
        "parquet": True,
    }
    job = _generate(server, "custom", **config, num_examples=40, filters=["length"], output_dir="mine", max_tokens=4)
    assert job["status"] == "done", job["error"]
    assert job["result"]["accepted"] == 40
    assert all(name.startswith("../mine/shard_") for name in job["shards"])
    got = 0
    while (claimed := server.http.post("/shards/claim", json={"job_id": job["job_id"]}).json()["shard"]) is not None:
        rows = [json.loads(line) for line in server.http.get(claimed["url"]).text.splitlines()]
        assert len(rows) == claimed["rows"]
        columns = server.http.get(claimed["url"].replace(".jsonl", ".parquet")).content
        assert pq.read_table(io.BytesIO(columns)).to_pylist() == rows
        got += len(rows)
        acknowledged = server.http.post(f"/shards/{claimed['name']}/ack", json={"claim_id": claimed["claim_id"]})
        assert acknowledged.json()["status"] == "acknowledged"
    assert got == 40
    first = job["shards"][0].rpartition("/")[2]
    download = f"/data_gen/jobs/{job['job_id']}/shards/{first}"
    part = server.http.get(download, headers={"Range": "bytes=0-9"})
    assert (part.status_code, part.content) == (206, server.http.get(download).content[:10])
    manifest = server.http.get(f"/data_gen/jobs/{job['job_id']}/files/manifest.json").json()
    assert [shard["rows"] for shard in manifest["shards"]] == [15, 15, 10]
    report = server.http.get(f"/data_gen/jobs/{job['job_id']}/report").json()
    assert [shard["rows"] for shard in report["shards"]] == [15, 15, 10]
    assert report["job"]["contamination"]["rows"] == report["job"]["duplicates"]["same_conversation"] == 0
    assert server.http.get(f"/data_gen/jobs/{job['job_id']}/rejected").json()["next"] is None


def test_a_small_model_shows_self_instruct_at_work(server: Server) -> None:
    server.copy_checkpoint(TASK_WRITER, "task-writer")
    registered = server.http.post("/models/register", json={"id": "task-writer", "source": "demo"})
    assert registered.status_code == 200, registered.text
    assert server.http.post("/models/set_active", json={"id": "task-writer"}).status_code == 200
    try:
        job = _generate(
            server, "self_instruct", "task-writer", domain="math", num_examples=10, max_attempts=400, seed=1
        )
    finally:
        assert server.http.post("/models/set_active", json={"id": FINAL_ID}).status_code == 200
    assert job["status"] == "done", job["error"]
    assert (job["result"]["accepted"], job["result"]["verified_by"]) == (10, {"executed": 10})
    rows = _rows(server, job)
    for row in rows:
        first, second = (int(number) for number in re.findall(r"[0-9]+", row["messages"][0]["content"]))
        assert row["metadata"]["answer"] == str(first + second)
    assert len({row["messages"][0]["content"] for row in rows}) == 10


@pytest.fixture
def early(server: Server) -> Iterator[Server]:
    """The shared server with an early checkpoint as the active model."""
    if not (server.models_dir / "early").exists():
        server.copy_checkpoint(EARLY, "early")
        registered = server.http.post("/models/register", json={"id": "early", "source": "4090"})
        assert registered.status_code == 200, registered.text
    assert server.http.post("/models/set_active", json={"id": "early"}).status_code == 200
    yield server
    assert server.http.post("/models/set_active", json={"id": FINAL_ID}).status_code == 200


@pytest.mark.long
def test_custom_makes_examples_of_what_an_early_checkpoint_got_wrong(early: Server) -> None:
    """Additions that it gets wrong without sampling, and right by chance."""
    sums = [{"a": a, "b": b} for a in range(10, 100) for b in range(10, 100)]
    config: dict[str, Any] = {"template": "What is {{a}}+{{b}}?", "rows": sums, "domain": "math", "max_tokens": 8}
    job = _generate(
        early,
        "custom",
        "early",
        **config,
        verify="executed",
        only_unsolved=True,
        samples_per_row=16,
        num_examples=500,
        temperature=1.0,
    )
    assert job["status"] == "done", job["error"]
    assert job["result"]["accepted"] == 500
    assert job["result"]["verified_by"] == {"executed": 500}
    assert job["result"]["rejected"]["already_solved"] > 0
    rows = _rows(early, job)
    assert len({row["messages"][0]["content"] for row in rows}) > 400
    assert all(_is_right(row) for row in rows)
    asked = [(row["messages"][0]["content"], row["messages"][1]["content"]) for row in rows[::50]]
    again = [answer_of(early.ask(question, "early")) == answer for question, answer in asked]
    assert sum(again) <= 1, "two answers of one probability may change places"


def test_failures_of_an_early_checkpoint_become_verified_examples(early: Server) -> None:
    server = early
    asked = {"model_id": "early", "name": "before", "dataset_ref": "math_eval.jsonl"}
    eval_id = server.http.post("/eval/jobs", json=asked).json()["job_id"]
    assert server.job(eval_id)["status"] == "done"
    job = _generate(
        server,
        "fix_eval_failures",
        "early",
        source_eval_run_id=eval_id,
        num_samples=120,
        replay_share=0.2,
        max_tokens=8,
    )
    assert job["status"] == "done", job["error"]
    result = job["result"]
    assert result["accepted"] == 120
    assert result["split"]["used"] == "dev"
    assert result["split"]["dev_questions"] + result["split"]["test_questions"] == 600
    assert 10 < result["replayed"] < 40
    assert result["verified_by"] == {"executed": 120}
    rows = _rows(server, job)
    assert all(_is_right(row) for row in rows)
    sealed = {
        json.loads(line)["question"]
        for line in (server.base_dir / "datasets" / "math_eval.jsonl").read_text().splitlines()
    }
    assert not sealed & {row["messages"][0]["content"] for row in rows}

    # A teacher that solves everything writes what its student gets wrong.
    taught = _generate(
        server,
        "fix_eval_failures",
        source_eval_run_id=eval_id,
        num_samples=200,
        samples=1,
        replay_share=0,
        max_tokens=8,
    )
    assert taught["status"] == "done", taught["error"]
    result = taught["result"]
    assert (result["accepted"], result["verified_by"], result["unsolved_by"]) == (200, {"executed": 200}, "student")
    rows = _rows(server, taught)[::20]
    assert all(_is_right(row) for row in rows)
    answers = [(row["messages"][1]["content"], row["messages"][0]["content"]) for row in rows]
    again = [answer_of(server.ask(question, "early")) == answer for answer, question in answers]
    assert sum(again) <= 1, "two answers of one probability may change places"


def test_control_killed_in_mid_job_loses_and_doubles_nothing(server: Server) -> None:
    config = {"template": "Say {{a}}+{{b}}", "rows": SUMS, "shard_size": 50, "num_examples": 350, "filters": ["length"]}
    body = {"model_id": FINAL_ID, "strategy": "custom", "config": {**config, "max_tokens": 16, "seed": 1}}
    job_id = server.http.post("/data_gen/jobs", json=body).json()["job_id"]
    folder = server.base_dir / "runs" / "data_gen" / job_id

    def has_come_to(shards: int) -> bool:
        return len(list(folder.glob("shard_*.jsonl"))) >= shards or (folder / "result.json").exists()

    for shards in (1, 3):
        wait_until(f"{shards} shards are written", partial(has_come_to, shards))
        server.named("stepserve: control").kill()
        wait_until("control is back", lambda: server.http.get("/jobs").status_code == 200)
    server.job(job_id)
    job = server.http.get(f"/data_gen/jobs/{job_id}").json()
    assert job["status"] == "done", job["error"]
    assert len(job["shards"]) == 7
    rows = _rows(server, job)
    assert len(rows) == len({row["id"] for row in rows}) == job["result"]["accepted"]
