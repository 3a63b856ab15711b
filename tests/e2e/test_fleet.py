"""Two real gateways under one control plane: joining, switching both, and kills in the middle of that."""

import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.server import EARLY, FINAL_ID, Server, kill
from tests.eventually import wait_until

_EARLY_ID = "fleet-early"


class Member(Server):
    """A gateway that joins `server`."""

    def __init__(self, base: Path, server: Server, name: str = "m1") -> None:
        self.arguments = ["join", server.url, "--id", name, "--zone", "here", "--label", "tier=fast"]
        super().__init__(base)


@pytest.fixture
def registered(server: Server) -> Iterator[Server]:
    """The shared server with a second model, and as it was before afterwards."""
    server.copy_checkpoint(EARLY, _EARLY_ID)
    register = {"id": _EARLY_ID, "source": "test"}
    server.http.post("/models/register", json=register).raise_for_status()
    yield server
    server.wait_ready()
    try:
        # One that could not say goodbye would be waited for by the switch, and fail it.
        wait_until("no member is left", lambda: members(server) <= {"lost"}, 240.0)
        answer = server.http.post("/models/set_active", json={"id": FINAL_ID})
        assert answer.status_code == 200, answer.text
    finally:
        server.forget(_EARLY_ID)


def fleet(server: Server) -> dict[str, Any]:
    """What GET /fleet says; nothing while control is away."""
    answer = server.http.get("/fleet")
    seen: dict[str, Any] = answer.json() if answer.status_code == 200 else {"gateways": [], "rollout": None}
    return seen


def members(server: Server) -> set[str]:
    """The states of those that have joined; `unknown` while control is away."""
    states = {each["id"]: each["state"] for each in fleet(server)["gateways"]} or {"local": "unknown", "m1": "unknown"}
    return {state for name, state in states.items() if name != "local"}


def all_ready(server: Server) -> bool:
    states = {each["id"]: each["state"] for each in fleet(server)["gateways"]}
    return states == {"local": "ready", "m1": "ready"}


def serves(*servers: Server) -> list[str]:
    """Which model answers on each, as the answers name it."""
    answers = [each.ask("What is 17+25?") for each in servers]
    assert [answer.status_code for answer in answers] == [200] * len(servers), [answer.text for answer in answers]
    return [answer.headers["x-model-id"] for answer in answers]


def switch(server: Server, model_id: str) -> Any:
    """The request may end with control, which is killed beneath it."""
    try:
        return server.http.post("/models/set_active", json={"id": model_id})
    except httpx.TransportError as error:
        return error


def step(server: Server, name: str) -> str:
    rollout = fleet(server)["rollout"]
    return next((each["state"] for each in rollout["steps"] if each["member"] == name), "") if rollout else ""


def test_a_fleet_of_two(registered: Server, tmp_path: Path) -> None:
    server = registered
    (tmp_path / "m1").mkdir()
    with ThreadPoolExecutor(1) as pool:
        first = Member(tmp_path / "m1", server)
        with first:
            first.wait_ready()
            assert serves(server, first) == [FINAL_ID, FINAL_ID]
            assert all_ready(server)
            elsewhere = first.http.get("/models")
            assert (elsewhere.status_code, elsewhere.json()["detail"]) == (
                421, f"This gateway is a member of the fleet of {server.url}: ask there.",
            )  # fmt: skip
            assert first.http.get("/internal/member/state").status_code == 401

            second = tmp_path / "second"
            second.mkdir()
            with Member(second, server) as refused:
                wait_until("a second m1 is refused", lambda: refused.process.poll() is not None, 240.0)
                refused.expected_code = 2
                assert f"a gateway at {first.url} has joined as 'm1' and is alive" in refused.terminal()

            answer = server.http.post("/models/set_active", json={"id": _EARLY_ID})
            assert answer.status_code == 200, answer.text
            gateways = answer.json()["gateways"]
            assert [(each["id"], each["proof"]["passed"]) for each in gateways] == [("local", True), ("m1", True)]
            assert serves(server, first) == [_EARLY_ID, _EARLY_ID]

            # Its engine stands still, so that it is in the middle of its switch when all of it is killed.
            first.named("VLLM::EngineCore").send_signal(signal.SIGSTOP)
            switching: Future[Any] = pool.submit(switch, server, FINAL_ID)
            wait_until("it is the member's turn", lambda: step(server, "m1") == "committing", 240.0)
            assert step(server, "local") == "proved"
            kill(first.processes())
            first.expected_code = -signal.SIGKILL
            answer = switching.result(240.0)
            assert (answer.status_code, answer.json()["rolled_back_to"]) == (500, _EARLY_ID)
            assert "m1 lost" in answer.json()["detail"]
            assert serves(server) == [_EARLY_ID]
            assert fleet(server)["committed"]["model"] == _EARLY_ID

        with Member(tmp_path / "m1", server) as again:
            again.wait_ready()
            assert serves(again) == [_EARLY_ID], "what is committed, not what it was being switched to"
            wait_until("both are ready", lambda: all_ready(server), 240.0)

            before = fleet(server)["rollout"]["id"]
            switching = pool.submit(switch, server, FINAL_ID)
            wait_until("a rollout has begun", lambda: fleet(server)["rollout"]["id"] != before, 240.0)
            server.named("stepserve: control").kill()
            switching.result(240.0)
            wait_until("both are ready with one model", lambda: all_ready(server), 240.0)
            assert serves(server, again) == [fleet(server)["committed"]["model"]] * 2
        assert {each["id"]: each["state"] for each in fleet(server)["gateways"]}["m1"] == "lost"
    assert server.http.delete("/fleet/m1").json() == {"status": "removed", "id": "m1"}
