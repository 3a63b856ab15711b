"""A control plane with everything real but the gateway's engines: database, migrations, sockets, files."""

import asyncio
import json
from collections.abc import AsyncIterator, MutableMapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from control.activation.reconciler import PollIntervals
from control.app import create_app
from control.database.database import url_of
from control.models.references import Compute
from control.telemetry.cards import CardReader
from stepserve.jobs.ports import JobKind
from stepserve.paths import Layout
from stepserve.settings import Settings
from tests.eventually import DEADLINE_S, eventually
from tests.integration.echo_kind import EchoKind
from tests.integration.fake_gateway import FakeGateway
from tests.integration.migrated import place_database
from tests.unit.control.checkpoint_files import write_checkpoint

PACE = PollIntervals(out_of_step_s=0.05, in_step_s=0.2)


@dataclass(slots=True)
class ControlPlane:
    """`http` talks to control as the gateway would."""

    layout: Layout
    http: httpx.AsyncClient
    gateway: FakeGateway
    kind: EchoKind
    app: FastAPI

    async def events(self, path: str) -> AsyncIterator[tuple[str, Any]]:
        """Server-sent events as they come: name and data; comments have the name "" and no data."""
        chunks: asyncio.Queue[bytes] = asyncio.Queue()

        async def receive() -> dict[str, Any]:
            await asyncio.Event().wait()
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                assert message["status"] == 200
            else:
                chunks.put_nowait(message["body"])

        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": "GET",
            "path": path, "raw_path": path.encode(), "query_string": b"", "headers": [], "scheme": "http",
        }  # fmt: skip
        answering = asyncio.create_task(self.app(scope, receive, send))
        try:
            async with asyncio.timeout(DEADLINE_S):
                while chunk := await chunks.get():
                    fields = dict(line.split(": ", 1) for line in chunk.decode().splitlines() if line)
                    yield fields.get("event", ""), json.loads(fields.get("data", "null"))
        finally:
            answering.cancel()
            await asyncio.wait({answering})

    async def get(self, path: str) -> Any:
        response = await self.http.get(path)
        assert response.status_code == 200, response.text
        return response.json()

    async def post(self, path: str, /, **body: Any) -> Any:
        response = await self.http.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    async def refused(self, status: int, path: str, /, **body: Any) -> str:
        """The detail of a POST that must fail so."""
        response = await self.http.post(path, json=body)
        assert response.status_code == status, response.text
        detail = response.json()["detail"]
        assert isinstance(detail, str)
        return detail

    async def add_model(self, model_id: str, seed: int = 0) -> None:
        write_checkpoint(self.layout.models / model_id, seed)
        await self.post("/models/register", id=model_id, source="test")

    async def add_active(self, model_id: str, seed: int = 0) -> None:
        await self.add_model(model_id, seed)
        await self.post("/models/set_active", id=model_id)

    async def job(self, job_id: str, status: str) -> Any:
        """The job, once it has this status."""
        return await eventually(lambda: self.get(f"/jobs/{job_id}"), lambda job: job["status"] == status)


async def run_sql(base: Path, statement: str) -> int:
    """Runs SQL behind the program's back, as a person would; how many rows it changed."""
    engine = create_async_engine(url_of(settings_of(base)))
    try:
        async with engine.begin() as connection:
            return (await connection.execute(text(statement))).rowcount
    finally:
        await engine.dispose()


def settings_of(base: Path, **changes: Any) -> Settings:
    """Computes no references, unless told to: the checkpoints of most tests are no models that could be loaded."""
    return Settings(base_dir=base, install_demo=False, proof_compute_max_bytes=0).model_copy(update=changes)


@asynccontextmanager
async def control(
    base: Path,
    gateway: FakeGateway,
    compute_reference: Compute | None = None,
    card_reader: CardReader | None = None,
    kinds: Sequence[JobKind] = (),
    **changes: Any,
) -> AsyncIterator[ControlPlane]:
    """Control alone, from start to stop."""
    settings = settings_of(base, **changes)
    place_database(settings)
    kind = EchoKind()
    app = create_app(
        settings,
        [kind, *kinds],
        pace=PACE,
        job_poll_s=0.3,
        job_backoff_s=1.0,
        compute_reference=compute_reference,
        card_reader=card_reader,
        notify_every_s=0.5,
    )
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://control", timeout=240) as http:
            yield ControlPlane(settings.layout, http, gateway, kind, app)


@asynccontextmanager
async def control_plane(
    base: Path, compute_reference: Compute | None = None, card_reader: CardReader | None = None, **changes: Any
) -> AsyncIterator[ControlPlane]:
    """Control and a gateway that runs."""
    gateway = FakeGateway(settings_of(base).layout.gateway_socket)
    async with gateway.running(), control(base, gateway, compute_reference, card_reader, **changes) as opened:
        yield opened
