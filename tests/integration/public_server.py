"""Control and the gateway's public port, both real and over real sockets; only the engines are missing."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from control.app import create_app
from control.routes import datasets
from datagen.kind import DataGenKind
from evals.dataset_store import FileDatasetStore
from evals.kind import EvalKind
from gateway.app import create_gateway
from gateway.http.connection import guarded
from gateway.serving.slot import Engine
from stepserve.contract import CheckedEngine, ModelRef, Placement
from stepserve.jobs.ports import JobKind
from stepserve.paths import Layout
from tests.eventually import eventually
from tests.integration.control_plane import PACE, settings_of
from tests.integration.fake_gateway import FakeGateway
from tests.integration.migrated import place_database
from tests.integration.serving import serving


@dataclass(slots=True)
class PublicServer:
    """`gateway` is what control switches; `url` is the public port; closing `control` ends it before the rest."""

    url: str
    layout: Layout
    gateway: FakeGateway
    app: FastAPI
    control: AsyncExitStack


@asynccontextmanager
async def public_server(
    base: Path, port: int = 0, *, makes_data: bool = False, **changes: Any
) -> AsyncIterator[PublicServer]:
    """`makes_data`: with jobs of data generation, and the processes that they need."""
    settings = settings_of(base, **changes)
    layout = settings.layout
    place_database(settings)
    fake = FakeGateway(layout.gateway_socket)
    kinds: list[JobKind] = [EvalKind(), *([DataGenKind(layout)] if makes_data else [])]
    app = create_app(settings, kinds, more_routes=[datasets.router_of(FileDatasetStore())], pace=PACE, job_poll_s=0.3)
    gateway = create_gateway(settings, _no_engine, lambda: fake.capabilities, lambda _: CheckedEngine(), dict)
    listener = socket.create_server(("127.0.0.1", port))
    layout.control_socket.unlink(missing_ok=True)
    beside = socket.socket(socket.AF_UNIX)
    beside.bind(str(layout.control_socket))
    beside.listen(64)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(fake.running())
        control = await stack.enter_async_context(AsyncExitStack())
        await control.enter_async_context(serving(app, beside))
        await stack.enter_async_context(gateway.running())
        serving_public = serving(gateway.public, listener, lifespan="off", http=guarded(settings.limits))
        await stack.enter_async_context(serving_public)
        async with httpx.AsyncClient(base_url=url, timeout=240) as http:
            await eventually(
                lambda: http.get("/models"), lambda answer: answer.status_code != 503
            )  # the keys are not known yet
        yield PublicServer(url, layout, fake, app, control)


async def _serve_until_killed(base: Path, port: int) -> None:
    async with public_server(base, port):
        await asyncio.Event().wait()


async def _no_engine(model: ModelRef, _: Placement | None) -> Engine:
    raise NotImplementedError(f"no engine here for {model.id}")


if __name__ == "__main__":
    asyncio.run(_serve_until_killed(Path(sys.argv[1]), int(sys.argv[2])))
