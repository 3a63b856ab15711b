"""Weights pushed into a real engine under load: right answers for the version that each names, or the ones before."""

import itertools
import json
import multiprocessing
import os
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo.rl_loop import loop
from stepserve.client import Client, probe_of
from stepserve.client.errors import Conflict, Invalid
from stepserve.delta import MEDIA_TYPE
from stepserve.probe import METADATA_KEY
from tests.e2e.server import EARLY, FINAL, FINAL_ID, Server, answer_of
from tests.eventually import wait_until

EARLY_ID = "early-for-pushes"
ROUTE = f"/models/{EARLY_ID}/weights"
PROMPT = "What is 17+25? 42. What is 9+8? 17."
QUESTIONS = [f"What is {a}+{b}?" for a, b in ((17, 25), (48, 37), (99, 1), (60, 35), (28, 64), (73, 19))]

Logprobs = list[float]


def logprobs(server: Server) -> tuple[str, Logprobs]:
    """What the active model says of a prompt, and the version of its weights."""
    body = {"model": "active", "prompt": PROMPT, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 0}
    answer = server.http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-model-version"], answer.json()["choices"][0]["logprobs"]["token_logprobs"][1:]


def answers(server: Server) -> list[str]:
    return [answer_of(server.ask(question)) for question in QUESTIONS]


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = load_file(FINAL / "model.safetensors")
    return loaded


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as there:
        yield there


@pytest.fixture(scope="module")
def final(server: Server, client: Client) -> Iterator[tuple[Logprobs, list[str]]]:
    """What a fresh engine with the final checkpoint says; then the early one serves."""
    server.wait_ready()
    said = logprobs(server)[1], answers(server)
    server.copy_checkpoint(EARLY, EARLY_ID)
    client.register_model(EARLY_ID, "test")
    client.set_active_model(EARLY_ID)
    yield said
    client.set_active_model(FINAL_ID)
    server.forget(EARLY_ID)


@pytest.fixture(autouse=True)
def early(final: object, client: Client) -> None:
    """Each test begins with the files of the early checkpoint."""
    client.set_active_model(EARLY_ID)


def test_a_push_under_load_answers_as_a_fresh_engine(
    server: Server, client: Client, final: tuple[Logprobs, list[str]], tensors: dict[str, torch.Tensor]
) -> None:
    before = answers(server)
    right = {"0": dict(zip(QUESTIONS, before, strict=True)), "1": dict(zip(QUESTIONS, final[1], strict=True))}
    assert right["0"] != right["1"]
    stop, wrong, seen = threading.Event(), [], set()

    def ask(start: int) -> None:
        with httpx.Client(base_url=server.url, timeout=240, trust_env=False) as http:
            for question in itertools.islice(itertools.cycle(QUESTIONS), start, None):
                messages = [{"role": "user", "content": question}]
                body = {"model": "active", "messages": messages, "temperature": 0}
                answer = http.post("/v1/chat/completions", json=body)
                version = "0" if answer.headers.get("x-model-version") == "0" else "1"
                seen.add(version)
                if answer.status_code != 200 or answer_of(answer) != right[version][question]:
                    wrong.append((version, question, answer.text))
                if stop.is_set():
                    return

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    wait_until("answers of the files", lambda: "0" in seen, 240.0)
    pushed = client.push_weights(tensors, version="step-1500")
    wait_until("answers of the push", lambda: "1" in seen, 240.0)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]
    assert pushed.proof is not None
    assert (pushed.proof["kind"], pushed.weight_version) == ("changed", "step-1500")
    assert logprobs(server) == (str(pushed.version), final[0])
    registered = next(model for model in client.list_models() if model.id == FINAL_ID)
    assert pushed.digest == registered.digest


def test_a_model_in_memory_is_proved_by_what_it_says(
    server: Server, client: Client, final: tuple[Logprobs, list[str]]
) -> None:
    """As a trainer has it: in float32, with the tied head as a tensor of its own name."""
    model = AutoModelForCausalLM.from_pretrained(FINAL, dtype=torch.float32)
    probe = probe_of(model, AutoTokenizer.from_pretrained(FINAL))
    assert "lm_head.weight" in model.state_dict()
    pushed = client.push_weights(model, probe=probe)
    assert pushed.proof is not None
    assert (pushed.proof["kind"], pushed.proof["passed"]) == ("reference", True)
    assert logprobs(server)[1] == final[0]
    with pytest.raises(Invalid, match="failed its proof"):
        client.push_weights(load_file(EARLY / "model.safetensors"), probe=probe)
    assert logprobs(server) == (str(pushed.version), final[0])
    again = client.push_weights(_named(model), probe=probe)
    assert again.version > pushed.version


def test_a_delta_answers_as_a_fresh_engine_or_leaves_its_base(
    server: Server, client: Client, final: tuple[Logprobs, list[str]], tensors: dict[str, torch.Tensor]
) -> None:
    first = client.push_weights(load_file(EARLY / "model.safetensors"), delta=True)
    assert first.base is None
    pushed = client.push_weights(tensors, delta=True)
    registered = next(model for model in client.list_models() if model.id == FINAL_ID)
    assert (pushed.base, pushed.digest) == (first.digest, registered.digest)
    assert logprobs(server) == (str(pushed.version), final[0])
    assert answers(server) == final[1]
    one_in_twenty = {name: _moved(tensor, number) for number, (name, tensor) in enumerate(tensors.items())}
    small = client.push_weights(one_in_twenty, delta=True)
    assert small.base == pushed.digest
    assert small.received_bytes is not None
    assert small.received_bytes < 0.1 * small.bytes
    before = logprobs(server)
    noise = {name: torch.randn_like(tensor.float()).to(tensor.dtype) * 1e4 for name, tensor in tensors.items()}
    with pytest.raises(Invalid, match="proof"):
        client.push_weights(
            noise, probe={"prompt_token_ids": [list(range(40, 80))], "logprobs": [[-0.1] * 39]}, delta=True
        )
    stale = {"base": first.digest}, {"content-type": MEDIA_TYPE}
    late = server.http.put(ROUTE, params=stale[0], headers=stale[1], content=b"x")
    assert (late.status_code, late.json()["code"]) == (409, "delta_base_unavailable")
    assert logprobs(server) == before
    again = client.push_weights(tensors, delta=True)
    assert (again.base, logprobs(server)[1]) == (None, final[0])


def _moved(tensor: torch.Tensor, seed: int) -> torch.Tensor:
    """One element of twenty is others, by a little."""
    chosen = torch.rand(tensor.shape, generator=torch.Generator().manual_seed(seed)) < 0.05
    return torch.where(chosen, tensor * 1.02, tensor)


def _named(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()  # a tied head is none of them


def test_broken_pushes_leave_the_answers_as_they_were(
    server: Server, client: Client, tensors: dict[str, torch.Tensor]
) -> None:
    before = logprobs(server), answers(server)
    one = next(iter(tensors))
    nan = tensors[one].clone()
    nan.view(-1)[3] = float("nan")
    for broken, words in (
        ({name: tensor for name, tensor in tensors.items() if name != one}, f"{one} is missing"),
        (tensors | {"stray": tensors[one].clone()}, "stray is not a tensor of the model"),
        (tensors | {one: tensors[one][1:]}, f"{one} has the shape"),
        (tensors | {one: tensors[one].to(torch.int32)}, f"{one} is I32, not"),
        (tensors | {one: nan}, f"{one} holds numbers that are not finite"),
    ):
        with pytest.raises(Invalid, match=words):
            client.push_weights(broken)
    whole = (FINAL / "model.safetensors").read_bytes()
    torn = server.http.put(ROUTE, content=whole[: len(whole) // 2])
    assert (torn.status_code, torn.json()["code"]) == (422, "bad_weights")
    noise = {name: torch.randn_like(tensor.float()).to(tensor.dtype) * 1e4 for name, tensor in tensors.items()}
    probe = {"prompt_token_ids": [list(range(40, 80))], "logprobs": [[-0.1] * 39]}
    with pytest.raises(Invalid, match="proof"):
        client.push_weights(noise, probe=probe)
    assert (logprobs(server), answers(server)) == before


def _send_half(host: str, port: int, path: Path, half_sent: Any) -> None:
    body = path.read_bytes()
    with socket.create_connection((host, port)) as trainer:
        trainer.sendall(f"PUT {ROUTE} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n\r\n".encode())
        trainer.sendall(body[: len(body) // 2])
        half_sent.set()
        signal.pause()


def test_a_trainer_that_is_killed_in_the_middle(
    server: Server, client: Client, tensors: dict[str, torch.Tensor]
) -> None:
    before = logprobs(server)
    context = multiprocessing.get_context("spawn")
    half_sent = context.Event()
    arguments = ("127.0.0.1", server.port, FINAL / "model.safetensors", half_sent)
    trainer = context.Process(target=_send_half, args=arguments)
    trainer.start()
    assert half_sent.wait(240.0)
    wait_until("the push comes in", lambda: server.http.get(ROUTE).json()["pushing"], 240.0)
    with pytest.raises(Conflict, match="being pushed"):
        client.push_weights(tensors)
    assert logprobs(server) == before
    assert trainer.pid is not None
    os.kill(trainer.pid, signal.SIGKILL)
    trainer.join()
    wait_until("the push is given up", lambda: not server.http.get(ROUTE).json()["pushing"], 240.0)
    assert logprobs(server) == before
    assert client.push_weights(tensors).changed > 0


def test_a_push_during_a_switch_is_refused(server: Server, client: Client, tensors: dict[str, torch.Tensor]) -> None:
    """The switch starts an engine anew, which takes seconds."""
    switch = threading.Thread(target=client.set_active_model, args=(FINAL_ID,), kwargs={"method": "restart"})
    switch.start()
    wait_until("the switch runs", lambda: server.http.get("/status").json()["switching_to"] == FINAL_ID, 240.0)
    with pytest.raises(Conflict, match="switch"):
        client.push_weights(tensors, model=EARLY_ID)
    switch.join()
    assert answer_of(server.ask("What is 17+25?")) == "42"


def test_a_header_that_promises_too_much(server: Server) -> None:
    answer = server.http.put(ROUTE, content=struct.pack("<Q", 1 << 60) + b"\0" * 64)
    assert (answer.status_code, answer.json()["code"]) == (422, "bad_weights")


def test_requests_that_are_kept_go_on_after_the_proof_alone(
    server: Server, client: Client, final: tuple[Logprobs, list[str]], tensors: dict[str, torch.Tensor]
) -> None:
    """In vLLM's phases: paused, updated with what fails its proof, updated with what is right, resumed."""
    whole = (FINAL / "model.safetensors").read_bytes()
    noise = {name: torch.randn_like(tensor.float()).to(tensor.dtype) * 1e4 for name, tensor in tensors.items()}
    probe = {"prompt_token_ids": [list(range(40, 80))], "logprobs": [[-0.1] * 39]}
    bad = save(noise, metadata={METADATA_KEY: json.dumps(probe)})
    body = {"model": "active", "prompt": "0", "max_tokens": 400, "ignore_eos": True, "n": 64}
    kept: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: kept.append(server.http.post("/v1/completions", json=body)))
    asking.start()
    wait_until("the request runs", lambda: server.http.get("/status").json()["engines"][0]["in_flight"] == 1, 240.0)
    _post(server, "/pause?mode=keep")
    assert server.http.get("/health").status_code == 200
    _post(server, "/init_weight_transfer_engine", json={"init_info": {"backend": "http"}})
    _post(server, "/start_weight_update")
    _post(server, "/update_weights", content=bad)
    failed = server.http.post("/finish_weight_update", json={})
    assert (failed.status_code, failed.json()["code"], failed.json()["rolled_back_to"]) == (422, "proof_failed", 0)
    _post(server, "/start_weight_update")
    _post(server, "/update_weights", content=whole)
    assert _post(server, "/finish_weight_update", json={"weight_version": "step-1500"})["proof"]["passed"]
    assert server.http.get("/is_paused").json() == {"is_paused": True}
    assert not kept
    _post(server, "/resume")
    asking.join()
    assert kept[0].status_code == 200
    assert kept[0].json()["usage"]["completion_tokens"] == 400 * 64
    assert logprobs(server)[1] == final[0]
    assert server.http.get("/weight_info").json()["weight_version"] == "step-1500"


def _post(server: Server, path: str, **body: Any) -> dict[str, Any]:
    answer = server.http.post(path, **body)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_a_loop_learns_from_whether_the_servers_answers_are_right(server: Server, client: Client) -> None:
    before, after = loop(client, server.http, steps=6, every=6)
    assert after > before + 0.05, "on questions that are never asked for rewards"
    assert server.http.get("/weight_info").json()["weight_version"] == "rl-6"
