"""One model over two process groups on loopback, as over two machines: it answers, loses its peer, and is back."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.server import EARLY, FINAL_ID, Server, answer_of, free_port, kill, title_of
from tests.eventually import wait_until

KEY = "the key of these nodes"
EARLY_ID = "early"

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="a core for the ranks of each node")


@contextmanager
def node(port: int, output: Path) -> Iterator[psutil.Popen]:
    """`stepserve node` in a process group of its own, which computes on another core than the head does."""
    core = max(os.sched_getaffinity(0))
    environment = os.environ | {"INFERENCE_NODES__KEY": KEY, "VLLM_CPU_OMP_THREADS_BIND": str(core)}
    program = str(Path(sys.executable).with_name("stepserve"))
    command = [program, "node", "--join", f"127.0.0.1:{port}", "--name", "second"]
    with output.open("a") as file:
        process = psutil.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
        try:
            yield process
        finally:
            family = [process, *process.children(recursive=True)] if process.is_running() else []
            process.terminate()
            process.wait(240)
            left = psutil.wait_procs(family, timeout=240)[1]
            kill(left)
            assert left == []


def test_a_model_over_two_nodes(tmp_path: Path) -> None:
    port, output = free_port(), tmp_path / "node.txt"
    settings: dict[str, Any] = {
        "engine__args": '{"tensor_parallel_size": 2, "nnodes": 2}',
        "nodes__address": "127.0.0.1",
        "nodes__port": port,
        "nodes__key": KEY,
    }
    with Server(tmp_path, **settings) as server:
        with node(port, output) as second:
            server.wait_ready()
            assert answer_of(server.ask("What is 17+25?")) == "42"
            assert [each["model"] for each in _nodes(server)] == [FINAL_ID]
            _switches_in_place(server)
            family = second.children(recursive=True)
            assert any(title_of(each).startswith("VLLM::Worker") for each in family)
            second.kill()
            wait_until("the slot is dead", lambda: not server.ready())
            refused = server.ask("What is 17+25?")
            assert refused.status_code == 503
            assert psutil.wait_procs(family, timeout=240)[1] == [], "what the killed node ran has ended with it"
        with node(port, output):
            server.wait_ready()
            assert answer_of(server.ask("What is 17+25?")) == "42"


def _switches_in_place(server: Server) -> None:
    """Proved by references that transformers computed: each node's shard has to be the new one."""
    server.copy_checkpoint(EARLY, EARLY_ID)
    server.http.post("/models/register", json={"id": EARLY_ID, "source": "test"}).raise_for_status()
    for model_id in (EARLY_ID, FINAL_ID):
        switched = server.http.post("/models/set_active", json={"id": model_id}).raise_for_status().json()
        assert (switched["method"], switched["proof"]["kind"]) == ("in_place", "computed")


def _nodes(server: Server) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.http.get("/diag").raise_for_status().json()["nodes"]
    return found
