"""`stepserve up --replicas 2` with real engines, each on cores of its own. The short form, without engines, is
tests/integration/test_replicas.py.
"""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.server import EARLY, FINAL_ID, Server, free_port
from tests.eventually import wait_until

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="each replica has a core of its own"),
]
MEMBER = "replica-2"
EARLY_ID = "replicas-early"
READY = {"local": "ready", MEMBER: "ready"}


class Box(Server):
    arguments = ("up", "--replicas", "2")


def states(box: Box) -> dict[str, str]:
    return {each["id"]: each["state"] for each in box.http.get("/fleet").json()["gateways"]}


def wait_both(box: Box) -> None:
    wait_until("both gateways are ready", lambda: states(box) == READY, 240.0)


def asked(box: Box, count: int) -> list[httpx.Response]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda number: box.ask(f"What is {number}+25?"), range(10, 10 + count)))


def who(answers: list[httpx.Response]) -> set[str | None]:
    """The head names who answered once it knows of members."""
    return {each.headers.get("x-stepserve-gateway") for each in answers}


def evaluate(box: Box) -> dict[str, Any]:
    eval_job = {"model_id": FINAL_ID, "name": "both", "dataset_ref": "math_eval.jsonl", "max_samples": 500}
    job = box.job(box.http.post("/eval/jobs", json=eval_job).raise_for_status().json()["job_id"])
    assert job["status"] == "done", job
    result = job["result"]
    assert isinstance(result, dict)
    return result


def test_two_gateways_of_one_machine(tmp_path: Path) -> None:
    with Box(tmp_path, replicas__first_port=free_port()) as box, ThreadPoolExecutor(1) as pool:
        box.wait_ready()
        wait_both(box)
        member = box.named(f"stepserve: gateway {MEMBER}")
        assert not set(member.cpu_affinity()) & set(box.named("stepserve: gateway").cpu_affinity())
        wait_until("both answer", lambda: who(asked(box, 8)) == READY.keys(), 240.0)
        assert {each.status_code for each in asked(box, 32)} == {200}
        result = evaluate(box)
        assert result["total_samples"] == 500

        box.copy_checkpoint(EARLY, EARLY_ID)
        box.http.post("/models/register", json={"id": EARLY_ID, "source": "test"}).raise_for_status()
        done = box.http.post("/models/set_active", json={"id": EARLY_ID}).raise_for_status().json()
        assert [(each["id"], each["proof"]["passed"]) for each in done["gateways"]] == [("local", True), (MEMBER, True)]
        assert {each.headers["x-model-id"] for each in asked(box, 8)} == {EARLY_ID}

        # It comes back to what was committed while it was away, in the middle of a job.
        member.send_signal(signal.SIGKILL)
        wait_until("its end is noticed", lambda: states(box)[MEMBER] != "ready", 240.0)
        box.http.post("/models/set_active", json={"id": FINAL_ID}).raise_for_status()
        job = pool.submit(evaluate, box)
        wait_both(box)
        assert {each.headers["x-model-id"] for each in asked(box, 8)} == {FINAL_ID}
        again = job.result(240.0)
        assert (again["total_samples"], again["correct"]) == (500, result["correct"])
