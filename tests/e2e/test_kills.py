"""An eval on the real server while all that works on it is killed: one after the other, at last at once in a switch."""

import contextlib
import json
import random
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from evals.tally import TIMING_KEYS
from tests.e2e.server import EARLY, FINAL_ID, Server, kill
from tests.eventually import wait_until

SPACING = 350  # samples between two kills, of which each comes within the first 250
GATEWAY = "stepserve: gateway"
OTHERS = ("stepserve: control", "stepserve: engine starter", "VLLM::EngineCore")


def _post_job(server: Server, samples: int) -> str:
    request = {"model_id": FINAL_ID, "name": "long", "dataset_ref": "many.jsonl", "max_samples": samples}
    job_id: str = server.http.post("/eval/jobs", json=request).raise_for_status().json()["job_id"]
    return job_id


def _metrics(server: Server, job_id: str) -> dict[str, Any]:
    """Of the job once it is done, without times; its result is what stands in metrics.json."""
    job = server.job(job_id)
    assert job["status"] == "done", job["error"]
    assert isinstance(job["result"], dict)
    metrics = json.loads((server.base_dir / "runs" / "eval" / job_id / "metrics.json").read_text())
    assert {key: metrics[key] for key in job["result"] if key in metrics} == job["result"]
    return {key: value for key, value in metrics.items() if key not in TIMING_KEYS}


def _lose_power_while_switching(server: Server) -> None:
    """Kills all processes in an order in which nobody can start anybody again."""
    switch = threading.Thread(target=_activate_and_ignore, args=(server.url, "early"))
    switch.start()
    wait_until("the switch runs", lambda: server.http.get("/status").json()["switching_to"] == "early", 240.0)
    kill(server.processes())
    psutil.wait_procs([server.process], timeout=240)
    switch.join()


def _activate_and_ignore(url: str, model_id: str) -> None:
    with contextlib.suppress(httpx.TransportError):
        body = {"id": model_id, "method": "blue_green"}
        httpx.post(f"{url}/models/set_active", json=body, timeout=240, trust_env=False)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("others", [(), pytest.param(OTHERS, marks=pytest.mark.long)], ids=["gateway", "each"])
def test_an_eval_outlives_every_process_and_the_machine(tmp_path: Path, others: tuple[str, ...]) -> None:
    """The short form kills the gateway before all of them; the others die one by one in test_survival, too."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    victims = [*chance.sample([GATEWAY, *others], 1 + len(others)), "all"]
    marks = [100 + number * SPACING + chance.randrange(250) for number in range(len(victims))]
    total = 100 + len(victims) * SPACING + 250
    with Server(tmp_path) as server:
        server.wait_ready()
        server.copy_checkpoint(EARLY, "early")
        server.http.post("/models/register", json={"id": "early", "source": "test"}).raise_for_status()
        questions = (tmp_path / "datasets" / "math_eval.jsonl").read_text()
        (tmp_path / "datasets" / "many.jsonl").write_text(questions * 4)
        undisturbed = _metrics(server, _post_job(server, total))
        job_id = _post_job(server, total)
        samples = tmp_path / "runs" / "eval" / job_id / "samples.jsonl"
        for victim, mark in zip(victims, marks, strict=True):
            wait_until(f"{mark} samples", partial(_has, samples, mark), 240.0)
            if victim == "all":
                server.expected_code = -signal.SIGKILL
                _lose_power_while_switching(server)
            else:
                killed = server.named(victim)
                killed.kill()
                wait_until("another one has taken its place", partial(_is_replaced, server, victim, killed.pid), 240.0)
    with Server(tmp_path) as server:
        server.wait_ready()
        active = server.http.get("/models/active").json()
        answer = server.ask("What is 17+25?")
        assert (answer.status_code, answer.headers["x-model-digest"]) == (200, active["digest"])
        history = server.http.get("/models/activations").json()["activations"]
        assert "running" not in {entry["status"] for entry in history}
        assert _metrics(server, job_id) == undisturbed
        ids = [json.loads(line)["id"] for line in samples.read_text().splitlines()]
        assert len(ids) == len(set(ids)) == total, "none lost, none twice"


def _has(samples: Path, lines: int) -> bool:
    return samples.exists() and samples.read_bytes().count(b"\n") >= lines


def _is_replaced(server: Server, title: str, former_pid: int) -> bool:
    try:
        return server.named(title).pid != former_pid and server.ready()
    except (StopIteration, psutil.Error):
        return False
