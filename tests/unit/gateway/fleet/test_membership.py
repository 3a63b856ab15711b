"""A member: what it calls itself where nobody says, and how often it bothers control."""

import asyncio
import socket
from pathlib import Path

import httpx
import pytest
from pydantic import TypeAdapter

from gateway.fleet.membership import Membership
from stepserve.contract import GatewayState
from stepserve.fleet import FLEET_HEARTBEAT_PATH, FLEET_JOIN_PATH, HeartbeatAnswer, JoinAnswer, MemberId
from stepserve.fleet_settings import FleetSettings
from stepserve.settings import Settings


@pytest.mark.parametrize(
    ("host", "called"),
    [
        ("gpu7.example.org", "gpu7-8765"),
        ("", "member-8765"),
        ("_a host", "a-host-8765"),
        ("deployment-" * 5 + "7d4b9c-x1", "ment-deployment-deployment-deployment-deployment-7d4b9c-x1-8765"),
    ],
)
def test_a_member_has_a_valid_id_on_any_machine(
    host: str, called: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: host)
    settings = Settings(base_dir=tmp_path, port=8765, fleet=FleetSettings(control="http://head:8765"))
    empty = GatewayState(boot_id="1", pid=1, active=None, switching_to=None, slots=[], held=0)
    found = Membership(settings, httpx.AsyncClient(), lambda: empty).id
    assert found == called
    TypeAdapter(MemberId).validate_python(found)


async def test_a_member_whose_heartbeats_are_refused_joins_again_after_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    enough = asyncio.Event()

    def control(request: httpx.Request) -> httpx.Response:
        happened.append(request.url.path)
        if len(happened) > 20:
            enough.set()
        if request.url.path == FLEET_JOIN_PATH:
            return httpx.Response(200, json=JoinAnswer(id="m", heartbeat_s=1, lease_s=5, committed=None).model_dump())
        return httpx.Response(404, json={"detail": "there is no member 'm'"})

    async def sleep(_: float) -> None:
        happened.append("pause")

    async def opened() -> None: ...

    http = httpx.AsyncClient(base_url="http://head:8765", transport=httpx.MockTransport(control))
    settings = Settings(base_dir=tmp_path, fleet=FleetSettings(control="http://head:8765", advertise="http://m:1"))
    empty = GatewayState(boot_id="1", pid=1, active=None, switching_to=None, slots=[], held=0)
    monkeypatch.setattr("gateway.fleet.membership.asyncio.sleep", sleep)
    member = asyncio.create_task(Membership(settings, http, lambda: empty).run(opened))
    await enough.wait()
    member.cancel()
    await asyncio.wait({member})
    monkeypatch.undo()
    assert happened[:6] == ["/fleet/join", "/fleet/heartbeat", "pause"] * 2


async def test_what_control_said_before_a_join_makes_no_member_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is not a member any more, or is one again that control has said nothing of yet, may serve what is old."""
    ready = HeartbeatAnswer(state="ready", committed=None).model_dump()
    beats = iter([(200, ready), (404, {"detail": "there is no member 'm'"}), (503, {"detail": "locked"}), (200, ready)])
    seen: list[tuple[str, bool]] = []
    enough = asyncio.Event()

    def control(request: httpx.Request) -> httpx.Response:
        seen.append((request.url.path, member.why_not_ready() is None))
        if request.url.path == FLEET_JOIN_PATH:
            answer = JoinAnswer(id="m", heartbeat_s=1, lease_s=500, committed=None)
            return httpx.Response(200, json=answer.model_dump())
        status, body = next(beats, (None, ready))
        if status is None:
            enough.set()
        return httpx.Response(status or 200, json=body)

    async def sleep(_: float) -> None:
        await pause(0)

    async def opened() -> None: ...

    pause = asyncio.sleep
    http = httpx.AsyncClient(base_url="http://head:8765", transport=httpx.MockTransport(control))
    settings = Settings(base_dir=tmp_path, fleet=FleetSettings(control="http://head:8765", advertise="http://m:1"))
    empty = GatewayState(boot_id="1", pid=1, active=None, switching_to=None, slots=[], held=0)
    member = Membership(settings, http, lambda: empty)
    monkeypatch.setattr("gateway.fleet.membership.asyncio.sleep", sleep)
    running = asyncio.create_task(member.run(opened))
    await enough.wait()
    running.cancel()
    await asyncio.wait({running})
    monkeypatch.undo()
    join, beat = FLEET_JOIN_PATH, FLEET_HEARTBEAT_PATH
    assert seen[:7] == [
        (join, False), (beat, False), (beat, True),  # the second one is refused
        (join, False), (beat, False), (beat, False), (beat, True),
    ]  # fmt: skip
