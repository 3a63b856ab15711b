"""Things are killed; the server lives."""

import asyncio
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.e2e.server import FINAL, FINAL_ID, Server, answer_of
from tests.eventually import wait_until


def test_inference_goes_on_without_control(server: Server) -> None:
    control = server.named("stepserve: control")
    control.kill()
    assert answer_of(server.ask("What is 17+25?")) == "42"
    wait_until("control is back", lambda: server.http.get("/models").status_code == 200, 240.0)
    assert server.http.get("/models/active").json()["id"] == FINAL_ID
    assert server.named("stepserve: control").pid != control.pid
    assert answer_of(server.ask("What is 17+25?")) == "42"


def test_control_routes_say_so_while_control_is_down(server: Server) -> None:
    control = server.named("stepserve: control")
    control.suspend()
    try:
        os.kill(control.pid, signal.SIGKILL)
        response = server.http.get("/models")
        assert response.status_code == 503
        assert "control process" in response.json()["detail"]
        assert response.headers["retry-after"]
    finally:
        wait_until("control is back", lambda: server.http.get("/models").status_code == 200, 240.0)


def test_a_job_outlives_control(server: Server) -> None:
    many = server.base_dir / "datasets" / "many.jsonl"
    questions = (server.base_dir / "datasets" / "math_eval.jsonl").read_text()
    many.write_text(questions * 2)
    request = {"model_id": FINAL_ID, "name": "long", "dataset_ref": "many.jsonl", "max_samples": 1000}
    job_id = server.http.post("/eval/jobs", json=request).raise_for_status().json()["job_id"]
    samples = server.base_dir / "runs" / "eval" / job_id / "samples.jsonl"
    wait_until("some samples are written", lambda: samples.exists() and samples.stat().st_size > 10_000, 240.0)
    server.named("stepserve: control").kill()
    wait_until("control is back", lambda: server.http.get("/jobs").status_code == 200, 240.0)
    job = server.job(job_id)
    assert job["status"] == "done", job["error"]
    result = job["result"]
    assert isinstance(result, dict)
    assert result["total_samples"] == 1000
    assert len(samples.read_text().splitlines()) == 1000
    assert job["attempt"] == 2


def test_a_dead_engine_is_a_503_and_comes_back(server: Server) -> None:
    gateway = server.named("stepserve: gateway").pid
    segments = len(_segments())
    server.named("VLLM::EngineCore").kill()
    wait_until("the death is noticed", lambda: server.ask("What is 17+25?").status_code == 503, 240.0)
    response = server.ask("What is 17+25?")
    assert response.json()["error"]["code"] == "service_unavailable"
    assert response.headers["retry-after"]
    assert server.http.get("/health").status_code == 503
    assert server.http.get("/livez").status_code == 200
    server.wait_ready()
    assert answer_of(server.ask("What is 17+25?")) == "42"
    assert server.named("stepserve: gateway").pid == gateway
    assert f'stepserve_engine_deaths_total{{model="{FINAL_ID}"}} 1.0' in server.http.get("/metrics").text
    assert len(_segments()) == segments, "a killed engine leaves no shared memory"


@pytest.mark.patches("forked_engines")
def test_engines_come_back_when_the_process_they_are_forked_from_is_killed(server: Server) -> None:
    starter = server.named("stepserve: engine starter")
    core = server.named("VLLM::EngineCore")
    starter.kill()
    wait_until("the engine has ended with it", lambda: not core.is_running() or _is_zombie(core), 240.0)
    server.wait_ready()
    assert answer_of(server.ask("What is 17+25?")) == "42"
    assert server.named("stepserve: engine starter").pid != starter.pid


def _segments() -> set[Path]:
    return set(Path("/dev/shm").glob("psm_*"))


def _is_zombie(process: psutil.Process) -> bool:
    return bool(process.status() == psutil.STATUS_ZOMBIE)


def test_a_candidate_that_cannot_load_leaves_the_old_one_serving(server: Server) -> None:
    server.copy_checkpoint(FINAL, "alien")
    config = server.models_dir / "alien" / "config.json"
    config.write_text(config.read_text().replace("Qwen3ForCausalLM", "NoSuchForCausalLM"))
    assert server.http.post("/models/register", json={"id": "alien", "source": "test"}).status_code == 200
    failed = server.http.post("/models/set_active", json={"id": "alien"})
    assert failed.status_code == 500
    assert failed.json()["rolled_back_to"] == FINAL_ID
    assert "NoSuchForCausalLM" in failed.json()["detail"]
    assert server.http.get("/models/active").json()["id"] == FINAL_ID
    assert answer_of(server.ask("What is 17+25?")) == "42"
    server.forget("alien")


def test_a_checkpoint_that_dies_at_its_first_forward_pass_is_never_reached(server: Server) -> None:
    folder = server.models_dir / "dies"
    shutil.copytree(FINAL, folder)
    (folder / "model.safetensors").unlink()
    config = LlamaConfig(  # head_dim 24: vLLM's CPU attention loads it and cannot run it
        vocab_size=259,
        hidden_size=96,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=24,
        max_position_embeddings=512,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    assert server.http.post("/models/register", json={"id": "dies", "source": "test"}).status_code == 200
    failed = server.http.post("/models/set_active", json={"id": "dies"})
    assert failed.status_code == 500, failed.text
    assert failed.json()["rolled_back_to"] == FINAL_ID
    assert answer_of(server.ask("What is 17+25?")) == "42"
    assert server.http.get("/models/activations").json()["activations"][0]["status"] == "failed"


@pytest.fixture(scope="module")
def short_timeout_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes an engine for hung after five silent seconds, and again five in which it gives no token."""
    folder = tmp_path_factory.mktemp("short_timeout_server")
    with Server(folder, engine__hang_timeout_s=5, engine__max_num_seqs=150) as own:
        own.wait_ready()
        yield own


def _long_answers(server: Server, number: int) -> list[int]:
    """The statuses of so many answers that are as long as the context allows, asked for at once."""

    async def run() -> list[int]:
        limits = httpx.Limits(max_connections=None)
        body = {"model": "active", "prompt": "1", "max_tokens": 500, "ignore_eos": True, "temperature": 1.0}
        async with httpx.AsyncClient(base_url=server.url, timeout=240, limits=limits, trust_env=False) as http:
            answers = await asyncio.gather(*(http.post("/v1/completions", json=body) for _ in range(number)))
        return [answer.status_code for answer in answers]

    return asyncio.run(run())


def test_a_full_engine_and_a_busy_gateway_are_not_taken_for_a_hung_engine(short_timeout_server: Server) -> None:
    """None of the first 150 answers ends for some seconds, so nothing else comes to its turn, a probe neither."""
    core, gateway = short_timeout_server.named("VLLM::EngineCore"), short_timeout_server.named("stepserve: gateway")
    statuses: list[int] = []
    asking = threading.Thread(target=lambda: statuses.extend(_long_answers(short_timeout_server, 300)))
    asking.start()
    wait_until("the engine is full", lambda: _running(short_timeout_server) == 150, 240.0)
    gateway.suspend()
    time.sleep(8.0)  # longer than an engine may be silent: nothing of what it says is heard
    gateway.resume()
    asking.join()
    assert statuses == [200] * 300
    assert core.is_running()
    assert not _is_zombie(core)
    assert f'stepserve_engine_deaths_total{{model="{FINAL_ID}"}} 0.0' in short_timeout_server.http.get("/metrics").text


def _running(server: Server) -> float:
    lines = server.http.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("vllm:num_requests_running{"))


def test_an_engine_that_is_stopped_is_a_503_and_comes_back(short_timeout_server: Server) -> None:
    core = short_timeout_server.named("VLLM::EngineCore")
    core.suspend()
    asked_s = time.monotonic()
    response = short_timeout_server.ask("What is 17+25?")
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "service_unavailable"
    assert time.monotonic() - asked_s < 60.0
    wait_until("it is gone, although it is stopped", lambda: not core.is_running() or _is_zombie(core), 240.0)
    short_timeout_server.wait_ready()
    assert answer_of(short_timeout_server.ask("What is 17+25?")) == "42"


def test_nothing_is_left_when_the_supervisor_is_killed(short_timeout_server: Server) -> None:
    family = short_timeout_server.processes()
    assert len(family) >= 5
    os.kill(short_timeout_server.process.pid, signal.SIGKILL)
    _, left = psutil.wait_procs(family, timeout=240.0)
    assert left == []
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", short_timeout_server.port))
    assert not _answers(short_timeout_server)
    short_timeout_server.expected_code = -signal.SIGKILL


def _answers(server: Server) -> bool:
    try:
        httpx.get(f"{server.url}/livez", trust_env=False)
    except httpx.TransportError:
        return False
    return True
