"""Control's routes through the public port."""

import asyncio
import os
import signal
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import httpx

from control.__main__ import main
from gateway.sidecar.control_link import ControlProxy
from stepserve.unix_http import unix_transport
from tests.eventually import eventually
from tests.integration.control_plane import settings_of
from tests.integration.forked import Forked
from tests.integration.public_server import public_server
from tests.unit.gateway.fakes import FakeClient

WATCHERS = 110


async def test_many_who_watch_leave_room_for_who_asks(tmp_path: Path) -> None:
    limits = httpx.Limits(max_connections=None)
    async with public_server(tmp_path) as there, AsyncExitStack() as watching:
        http = await watching.enter_async_context(
            httpx.AsyncClient(base_url=there.url, limits=limits, verify=False, timeout=240)
        )
        for _ in range(WATCHERS):
            watched = await watching.enter_async_context(http.stream("GET", "/logs/jobs?follow=true"))
            assert watched.status_code == 200
        assert (await http.get("/jobs/stats")).status_code == 200


async def test_an_answer_of_controls_has_each_header_once(tmp_path: Path) -> None:
    async with (
        public_server(tmp_path) as there,
        httpx.AsyncClient(base_url=there.url, verify=False, timeout=240) as http,
    ):
        names = [name.lower() for name, _ in (await http.get("/jobs/stats")).headers.raw]
    assert {b"date", b"server", b"content-type"} <= set(names)
    assert sorted(names) == sorted(set(names))


async def test_a_socket_that_nobody_reads_from_is_a_503_for_all_who_wait(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as stopped:  # the system takes connections for it
        stopped.bind(str(path))
        stopped.listen(64)
        link = ControlProxy(path, 1024, stalled_after_s=0.1)
        clients = [FakeClient(b"", "/models") for _ in range(8)]
        for client in clients:
            client.scope.update(method="GET", raw_path=b"/models")
        async with asyncio.timeout(240):
            await asyncio.gather(*(link(client.scope, client.receive, client.send) for client in clients))
        await link.close()
    for client in clients:
        assert client.status == 503
        assert b"control process does not answer" in client.body


async def test_a_control_that_is_stopped_is_a_503_and_not_a_wait_without_end(tmp_path: Path) -> None:
    """SIGSTOP: its socket takes connections still, and nobody reads from them."""
    settings = settings_of(tmp_path)
    settings.layout.create()
    path = settings.layout.control_socket
    control = Forked(main, os.environ | {"INFERENCE_BASE_DIR": str(tmp_path), "INFERENCE_INSTALL_DEMO": "false"})
    link = ControlProxy(path, 10_000, stalled_after_s=2.0)
    try:
        async with (
            httpx.AsyncClient(transport=unix_transport(path), base_url="http://control", timeout=240) as owner,
            httpx.AsyncClient(transport=httpx.ASGITransport(link), base_url="http://gateway", timeout=240) as http,
        ):
            await eventually(lambda: _status(owner, "/health"), lambda status: status == 200)
            assert (await http.get("/models")).status_code == 200
            control.send(signal.SIGSTOP)
            async with asyncio.timeout(240):
                answers = await asyncio.gather(http.get("/models"), http.post("/models/register", json={}))
            for answer in answers:
                assert (answer.status_code, answer.json()["code"]) == (503, "control_down")
            control.send(signal.SIGCONT)
            await eventually(lambda: _status(http, "/models"), lambda status: status == 200)
    finally:
        await link.close()
        control.kill()
        await control.gone()


async def _status(http: httpx.AsyncClient, path: str) -> int:
    try:
        return (await http.get(path)).status_code
    except httpx.HTTPError:
        return 0
