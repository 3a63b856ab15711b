"""Gateway and control as they run, each on its sockets, over engines that are told what to answer."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import APIRouter, FastAPI

from control.app import create_app
from gateway.app import Gateway, create_gateway
from gateway.http.asgi import App
from gateway.http.connection import guarded
from gateway.serving.slot import Engine
from stepserve.contract import Capabilities, CheckedEngine, ModelRef, Placement
from stepserve.jobs.ports import JobKind
from stepserve.placement import Device
from stepserve.settings import Settings
from stepserve.unix_http import unix_transport
from tests.integration.control_plane import PACE, settings_of
from tests.integration.migrated import place_database
from tests.integration.serving import serving
from tests.unit.control.checkpoint_files import write_checkpoint
from tests.unit.gateway.fakes import FakeEngine

MODEL = "a"


def _no_capabilities() -> Capabilities:
    return Capabilities(
        device="cpu", memory_bytes=1 << 30, architectures=[], model_types=[], quantize={}, prequantized=[]
    )


@dataclass
class FullStack:
    """`http` asks the public port without a key; `owner` asks control's own socket."""

    url: str
    settings: Settings
    gateway: Gateway
    engine: FakeEngine
    http: httpx.AsyncClient
    owner: httpx.AsyncClient

    async def key(self, **fields: Any) -> str:
        """A new key, made by the machine's owner; an administrator's comes first, as it must."""
        if not (await self.owner.get("/keys")).json()["keys"] and "admin" not in fields.get("scopes", []):
            await self.key(name="first", scopes=["admin"])
        answer = await self.owner.post("/keys", json={"name": "test", **fields})
        assert answer.status_code == 201, answer.text
        key: str = answer.json()["key"]
        return key

    async def chat(self, key: str | None = None, **body: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return await self.http.post("/v1/chat/completions", json={"model": MODEL, **body}, headers=headers)


@asynccontextmanager
async def full_stack(
    base: Path,
    *,
    with_control: bool = True,
    make_engine: Callable[[ModelRef], FakeEngine] = FakeEngine,
    kinds: Sequence[JobKind] = (),
    more_routes: Sequence[APIRouter] = (),
    read_cards: Callable[[], Sequence[Device]] | None = None,
    **changes: Any,
) -> AsyncIterator[FullStack]:
    """Serves, with one model loaded where control is there to ask for it; on any free port unless `port` is given.

    `read_cards`: where engines are; None: the CPU.
    """
    port = int(changes.get("port", 0))
    settings = settings_of(base, **changes)
    settings.layout.create()
    engines: list[FakeEngine] = []

    async def start_engine(ref: ModelRef, _: Placement | None) -> Engine:
        engines.append(make_engine(ref))
        return engines[-1]

    gateway = create_gateway(settings, start_engine, _no_capabilities, lambda _: CheckedEngine(), dict, read_cards)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(gateway.running())
        port = await stack.enter_async_context(on_port(port, gateway.public, settings, {}))
        await stack.enter_async_context(on_socket(gateway.private, settings.layout.gateway_socket))
        if with_control:
            await stack.enter_async_context(running_control(settings, kinds, more_routes))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=240))
        transport = unix_transport(settings.layout.control_socket)
        owner = await stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://control", timeout=240)
        )
        if with_control:
            write_checkpoint(settings.layout.models / MODEL)
            for path, body in (
                ("/models/register", {"id": MODEL, "source": "t"}),
                ("/models/set_active", {"id": MODEL}),
            ):
                answer = await owner.post(path, json=body)
                assert answer.status_code == 200, answer.text
        yield FullStack(f"http://127.0.0.1:{port}", settings, gateway, engines[-1] if engines else None, http, owner)  # type: ignore[arg-type]


Story = Callable[[FullStack], Awaitable[None]]


def run_story(base: Path, story: Story, **changes: Any) -> None:
    """Runs a test in a full stack, from its start to its stop."""

    async def run() -> None:
        async with full_stack(base, **changes) as there:
            await story(there)

    asyncio.run(run())


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@asynccontextmanager
async def running_control(
    settings: Settings, kinds: Sequence[JobKind] = (), more_routes: Sequence[APIRouter] = ()
) -> AsyncIterator[FastAPI]:
    """Control on its socket, from start to stop."""
    place_database(settings)
    app = create_app(settings, list(kinds), more_routes=list(more_routes), pace=PACE, job_poll_s=0.3)
    async with on_socket(app, settings.layout.control_socket):
        yield app


@asynccontextmanager
async def listening(app: App, settings: Settings, **options: Any) -> AsyncIterator[int]:
    """The public port as the gateway sets it up, any that is free; yields its number."""
    async with on_port(0, app, settings, options) as port:
        yield port


@asynccontextmanager
async def on_port(port: int, app: App, settings: Settings, options: dict[str, Any]) -> AsyncIterator[int]:
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    async with serving(app, listener, lifespan="off", http=guarded(settings.limits), proxy_headers=False, **options):
        yield listener.getsockname()[1]


@asynccontextmanager
async def on_socket(app: Any, path: Path) -> AsyncIterator[None]:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(128)
    async with serving(app, listener):
        yield
    path.unlink()
