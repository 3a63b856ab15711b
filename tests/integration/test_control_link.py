"""Control's routes through the public port."""

import asyncio
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import httpx

from gateway.control_link import ControlLink
from tests.integration.front import front
from tests.unit.gateway.fakes import Client

WATCHERS = 110


def test_many_who_watch_leave_room_for_who_asks(tmp_path: Path) -> None:
    async def run() -> None:
        limits = httpx.Limits(max_connections=None)
        async with front(tmp_path) as there, AsyncExitStack() as watching:
            http = await watching.enter_async_context(
                httpx.AsyncClient(base_url=there.url, limits=limits, verify=False, timeout=20)
            )
            for _ in range(WATCHERS):
                watched = await watching.enter_async_context(http.stream("GET", "/logs/jobs?follow=true"))
                assert watched.status_code == 200
            assert (await http.get("/jobs/stats")).status_code == 200

    asyncio.run(run())


def test_a_control_that_is_stopped_is_a_503_and_not_a_wait_for_ever(tmp_path: Path) -> None:
    async def run() -> None:
        path = tmp_path / "control.sock"
        with socket.socket(socket.AF_UNIX) as stopped:  # the system takes connections for it
            stopped.bind(str(path))
            stopped.listen(64)
            link = ControlLink(path, 1024, look_every_s=0.01)
            clients = [Client(b"", "/models") for _ in range(8)]
            for client in clients:
                client.scope.update(method="GET", raw_path=b"/models")
            async with asyncio.timeout(60):
                await asyncio.gather(*(link(client.scope, client.receive, client.send) for client in clients))
            await link.close()
        for client in clients:
            assert client.status == 503
            assert b"control process does not answer" in client.body

    asyncio.run(run())
