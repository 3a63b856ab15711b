"""Weights that are pushed to a head reach a real member, and one that comes back after it was killed."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from stepserve.client import Client
from tests.e2e.server import EARLY, FINAL, FINAL_ID, Server, kill
from tests.e2e.test_fleet import Member, all_ready, fleet
from tests.eventually import wait_until

_EARLY_ID = "early-for-a-fleet"
PROMPT = "What is 17+25? 42. What is 9+8? 17."

Said = tuple[str, list[float]]


def said(server: Server) -> Said:
    """Which version answers on this gateway, and what it says of a prompt."""
    body = {"model": "active", "prompt": PROMPT, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 0}
    answer = server.http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-model-version"], answer.json()["choices"][0]["logprobs"]["token_logprobs"][1:]


@pytest.fixture
def final(server: Server) -> Iterator[list[float]]:
    """What a fresh engine with the final checkpoint says; then the early one serves."""
    server.wait_ready()
    right = said(server)[1]
    server.copy_checkpoint(EARLY, _EARLY_ID)
    with Client(server.url) as client:
        client.register_model(_EARLY_ID, "test")
        client.set_active_model(_EARLY_ID)
        yield right
        client.set_active_model(FINAL_ID)
    server.forget(_EARLY_ID)


def test_a_push_to_a_fleet_of_two(server: Server, final: list[float], tmp_path: Path) -> None:
    base = tmp_path / "m1"
    base.mkdir()
    with Client(server.url) as client:
        with Member(base, server) as member:
            member.wait_ready()
            wait_until("both are ready", lambda: all_ready(server), 240.0)
            pushed = client.push_weights(load_file(FINAL / "model.safetensors"), version="step-1500")
            assert {each["id"] for each in pushed.gateways or []} == {"local", "m1"}
            assert said(member) == (str(pushed.version), final), "a member answers as a fresh engine does"
            wait_until("both serve it", lambda: all_ready(server), 240.0)
            for _ in range(8):  # by whichever of the two
                assert said(server) == (str(pushed.version), final)
            shown = fleet(server)
            assert shown["committed"] == {"model": _EARLY_ID, "digest": pushed.digest, "version": pushed.version}
            kill(member.processes())
            member.expected_code = -signal.SIGKILL
        with Member(base, server) as again:
            again.wait_ready()
            assert said(again) == (str(pushed.version), final), "it is brought to what was pushed before it is ready"
        client.set_active_model(_EARLY_ID)
        assert said(server)[0] == "0"
    server.http.delete("/fleet/m1")
