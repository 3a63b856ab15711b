"""What `python -m gateway` is in a test of several gateways: fakes without engines, as programs.

The head's public port hands everything to control. They tell by files of their base directory: `share.json` has what
the process computes on; while `hold` is there a member does not join; `ended` has when it was asked to end.
"""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stepserve.process import follow_parent
from stepserve.setting_origins import load
from stepserve.settings import Settings
from stepserve.unix_http import unix_transport
from tests.eventually import eventually
from tests.integration.fake_gateway import FakeGateway
from tests.integration.fake_member import FakeMember
from tests.integration.serving import serving

SHARE, HOLD, ENDED = "share.json", "hold", "ended"
BATCH_S = 1.0  # so long each takes for a chunk of a job
PROGRAM = "import runpy\nrunpy.run_module('tests.integration.fake_replica', run_name='__main__')\n"


def install(folder: Path) -> None:
    """Makes it what `python -m gateway` runs in that folder."""
    (folder / "gateway").mkdir()
    (folder / "gateway" / "__init__.py").touch()
    (folder / "gateway" / "__main__.py").write_text(PROGRAM)


async def run(settings: Settings) -> None:
    base = settings.layout.base
    settings.layout.create()
    follow_parent(signal.SIGTERM)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    share = {
        "pid": os.getpid(),
        "cards": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "cores": sorted(os.sched_getaffinity(0)),
    }
    (base / SHARE).write_text(json.dumps(share))
    async with _head(settings) if settings.fleet.control is None else _member(settings):
        await stop.wait()
        (base / ENDED).write_text(str(time.monotonic()))


@asynccontextmanager
async def _head(settings: Settings) -> AsyncIterator[None]:
    transport = unix_transport(settings.layout.control_socket)
    async with AsyncExitStack() as stack:
        control = await stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://control", timeout=240)
        )

        async def relay(request: Request) -> Response:
            headers = {"content-type": request.headers.get("content-type", "application/json")}
            body = await request.body()
            try:
                answer = await control.request(request.method, request.url.path, content=body, headers=headers)
            except httpx.TransportError:
                return Response(status_code=503)
            return Response(answer.content, answer.status_code, media_type="application/json")

        methods = ["GET", "POST", "DELETE"]
        app = Starlette(routes=[Route("/{path:path}", relay, methods=methods)])
        listener = socket.create_server((settings.host, settings.port))
        await stack.enter_async_context(serving(app, listener, at_once=True, lifespan="off", loop="asyncio"))
        gateway = FakeGateway(settings.layout.gateway_socket)
        gateway.batch_takes_s = BATCH_S
        await stack.enter_async_context(gateway.running())
        yield


@asynccontextmanager
async def _member(settings: Settings) -> AsyncIterator[None]:
    async with control_client(settings) as control:

        async def may_join() -> bool:
            if (settings.layout.base / HOLD).exists():
                return False
            try:
                return (await control.get("/health")).status_code == 200
            except httpx.TransportError:
                return False

        await eventually(may_join, bool)
        member = FakeMember(str(settings.fleet.id), settings.port)
        member.batch_takes_s = BATCH_S
        async with member.joined(control):
            yield


def control_client(settings: Settings) -> httpx.AsyncClient:
    if settings.fleet.control_socket is None:
        return httpx.AsyncClient(base_url=str(settings.fleet.control), timeout=240, trust_env=False)
    transport = unix_transport(settings.fleet.control_socket)
    return httpx.AsyncClient(transport=transport, base_url="http://control", timeout=240)


if __name__ == "__main__":
    asyncio.run(run(load()))
