"""A client that goes away before its answer is whole: within a second the engine works for others, on every route."""

import json
import shutil
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.server import FINAL, Server
from tests.eventually import wait_until

CLIENTS = 24
MESSAGES = [{"role": "user", "content": "Tell me everything."}]
LONG: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 440},
    "/v1/completions": {"prompt": "x", "max_tokens": 440},
    "/v1/responses": {"input": "x", "max_output_tokens": 440},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 440},
    "/generate": {"prompt": "x", "max_tokens": 440},
    "/chat": {"messages": MESSAGES, "max_tokens": 440},
    "/solve/math": {"problem": "x", "max_tokens": 350},
    "/api/chat": {"messages": MESSAGES, "stream": False, "options": {"num_predict": 440}},
    "/api/generate": {"prompt": "x", "raw": True, "stream": False, "options": {"num_predict": 440}},
}


@pytest.fixture(scope="module")
def endless_model(server: Server) -> Iterator[Server]:
    """The shared server with a model that never comes to an end by itself."""
    folder = server.models_dir / "talkative"
    shutil.copytree(FINAL, folder)
    for name, changed in (
        ("tokenizer_config.json", {"eos_token": "<|endoftext|>"}),
        ("generation_config.json", {"eos_token_id": 256}),
        ("config.json", {"eos_token_id": 256}),
    ):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | changed))
    server.http.post("/models/register", json={"id": "talkative", "source": "t"}).raise_for_status()
    yield server
    server.http.post("/models/talkative/unload").raise_for_status()
    server.forget("talkative")


@pytest.fixture(scope="module")
def patient_s(endless_model: Server) -> float:
    """How long the answers take when everyone stays."""
    for clients in (1, CLIENTS):  # for the first it is loaded
        body = {"model": "talkative", **LONG["/v1/completions"], "n": clients}
        started = time.monotonic()
        answer = endless_model.http.post("/v1/completions", json=body)
        assert answer.json()["usage"]["completion_tokens"] == 440 * clients
    return time.monotonic() - started


def in_flight(server: Server) -> int:
    return sum(engine["in_flight"] for engine in server.http.get("/status").json()["engines"])


@pytest.mark.parametrize("path", LONG)
def test_nothing_is_left_in_flight(endless_model: Server, patient_s: float, path: str) -> None:
    body = json.dumps({"model": "talkative", "temperature": 0, **LONG[path]}).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    connections = [socket.create_connection(("127.0.0.1", endless_model.port)) for _ in range(CLIENTS)]
    try:
        for connection in connections:
            connection.sendall(request)
        wait_until("all are at work", lambda: in_flight(endless_model) == CLIENTS, 240.0)
    finally:
        for connection in connections:
            connection.close()
    left = time.monotonic()
    wait_until("nothing is in flight", lambda: in_flight(endless_model) == 0, 240.0)
    assert time.monotonic() - left < patient_s / 2
