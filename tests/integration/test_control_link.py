"""Control's routes through the public port."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import httpx

from tests.integration.front import front

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
