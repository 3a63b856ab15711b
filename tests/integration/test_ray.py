"""`stepserve up --ray` on a real Ray cluster of two nodes in one machine; gateways are fakes without engines.

Ray is the extra `ray` of stepserve-server, and no part of the locks: it gets an environment of its own.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.environments import python_with
from tests.e2e.server import FINAL_ID, free_port, kill
from tests.eventually import wait_until
from tests.integration import fake_replica, programs
from tests.integration.programs import REPOSITORY, STEPSERVE, environment_of
from tests.integration.test_refused_starts import refused

REPLICAS = {"replica-1", "replica-2"}
SAMPLES = 400


class Nodes:
    """The cluster. `address`: where it is."""

    def __init__(self, process: psutil.Popen) -> None:
        self._process = process
        self.address = process.stdout.readline().strip()
        assert self.address, "the cluster did not start"

    def remove(self) -> None:
        """Ends the node that is not the head, as a machine ends that loses its power."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "removed\n"


@contextmanager
def cluster(python: Path, folder: Path) -> Iterator[Nodes]:
    waits = {"RAY_raylet_start_wait_time_s": "240"}  # a busy machine needs more than Ray's 10 s
    environment = environment_of(folder, {"PYTHONPATH": f"{folder}:{REPOSITORY}"}) | waits
    del environment["INFERENCE_BASE_DIR"]
    process = psutil.Popen(
        [str(python), "-m", "tests.integration.ray_nodes"],
        cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield Nodes(process)
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(240)


def members(port: int) -> dict[str, tuple[str, str]]:
    """State and URL of each; nothing before the server answers."""
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/fleet", timeout=240, trust_env=False)
    except httpx.TransportError:
        return {}
    gateways = answer.json()["gateways"] if answer.status_code == 200 else []
    return {each["id"]: (each["state"], each["url"]) for each in gateways if each["id"] != "local"}


def are_ready(port: int) -> bool:
    there = members(port)
    return there.keys() == REPLICAS and {state for state, _ in there.values()} == {"ready"}


def begin_job(port: int) -> str:
    body = {"model_id": FINAL_ID, "name": "n", "dataset_ref": "math_eval.jsonl", "max_samples": SAMPLES}
    answer = httpx.post(f"http://127.0.0.1:{port}/eval/jobs", json=body, timeout=240, trust_env=False)
    job_id: str = answer.raise_for_status().json()["job_id"]
    return job_id


def job(port: int, job_id: str) -> dict[str, Any]:
    answer = httpx.get(f"http://127.0.0.1:{port}/jobs/{job_id}", timeout=240, trust_env=False)
    shown: dict[str, Any] = answer.raise_for_status().json()
    return shown


@pytest.mark.long
def test_replicas_of_a_node_that_is_lost_are_placed_on_another(tmp_path: Path) -> None:
    python = python_with("ray", beside_ours=True)
    fake_replica.install(tmp_path)
    port = free_port()
    with cluster(python, tmp_path) as nodes:
        settings = {"port": port, "ui": False, "fleet__lease_s": 2, "drain_timeout_s": 5, "batch_items": 4}
        with (tmp_path / "stderr.txt").open("w") as stderr:
            server = psutil.Popen(
                [str(python), *STEPSERVE, "up", "--ray", nodes.address, "--replicas", "2"],
                cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=stderr,
                env=environment_of(tmp_path, {**settings, "PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}),
            )  # fmt: skip
        try:
            wait_until("both replicas are ready", lambda: are_ready(port), 240.0)
            before = members(port)
            job_id = begin_job(port)
            wait_until("the job is in its middle", lambda: job(port, job_id)["progress"]["done"] > 0, 240.0)
            nodes.remove()
            wait_until(
                "one is at another place", lambda: len(set(before.values()) - set(members(port).values())) == 1, 240.0
            )
            wait_until("both are ready again", lambda: are_ready(port) and members(port) != before, 240.0)
            wait_until("the job ends", lambda: job(port, job_id)["status"] not in {"pending", "running"}, 240.0)
            assert (job(port, job_id)["status"], job(port, job_id)["result"]["total_samples"]) == ("done", SAMPLES)
            samples = (tmp_path / "runs" / "eval" / job_id / "samples.jsonl").read_text().splitlines()
            assert len({json.loads(line)["id"] for line in samples}) == len(samples) == SAMPLES
            server.send_signal(signal.SIGTERM)
            assert server.wait(240) == 0, (tmp_path / "stderr.txt").read_text()
        finally:
            if server.is_running():
                kill([server, *server.children(recursive=True)])
        left = [tmp_path / "replicas" / name / fake_replica.ENDED for name in REPLICAS]
        assert all(file.exists() for file in left), "each was asked to end"


def test_a_server_without_ray_says_so(tmp_path: Path) -> None:
    """A module that hides an installed one stands for one that is not there."""
    hidden = "import sys; sys.modules['ray'] = None; from stepserve.client.cli import main; main()"
    assert STEPSERVE[0] == "-c"
    environment = environment_of(tmp_path, {"port": free_port(), "ui": False})
    ended = subprocess.run(
        [sys.executable, "-c", hidden, "up", "--ray", "auto"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    refused(ended, 2, "--ray needs the package ray", "extra `ray` of stepserve-server")
    refused(programs.server(tmp_path, "join", "http://127.0.0.1:1", replicas__ray="auto"), 2, "replicas.ray")
