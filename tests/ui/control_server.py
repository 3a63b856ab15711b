"""Control alone on a real port, over a gateway and members that answer as they are told."""

import asyncio
import json
import socket
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from control.app import create_app
from control.routes import datasets, evals
from evals.dataset_store import FileDatasetStore
from evals.kind import EvalKind
from evals.reports import EvalReports
from stepserve.contract import BatchItem, BatchOutput
from stepserve.paths import Layout
from tests.eventually import eventually
from tests.integration.control_plane import PACE, settings_of
from tests.integration.fake_gateway import FakeGateway
from tests.integration.fake_member import FakeMember
from tests.integration.migrated import place_database
from tests.integration.serving import serving
from tests.ui.in_thread import Running, in_thread
from tests.unit.control.checkpoint_files import write_checkpoint

ACTIVE = "old"
QUESTIONS = 60


def knowing(share: float, wrong: str = "-1") -> Callable[[BatchItem], BatchOutput]:
    """Right on this share of the questions, always the same ones; `wrong` is what it says else."""

    def answer(item: BatchItem) -> BatchOutput:
        assert item.messages is not None
        number = int(item.messages[-1].content.split()[-1].split("+")[0])
        right = (number * 37) % QUESTIONS < share * QUESTIONS
        return BatchOutput(text=str(number + 1) if right else wrong, finish_reason="stop", completion_tokens=3)

    return answer


@dataclass(frozen=True, slots=True)
class Parts:
    url: str
    layout: Layout
    gateway: FakeGateway
    members: dict[str, FakeMember]


@dataclass(frozen=True, slots=True)
class ControlServer:
    """The model `old` is active, and knows half of the dataset `sums.jsonl`."""

    running: Running[Parts]
    http: httpx.Client

    @property
    def url(self) -> str:
        return self.running.it.url

    @property
    def gateway(self) -> FakeGateway:
        return self.running.it.gateway

    def member(self, name: str) -> FakeMember:
        return self.running.it.members[name]

    def add(self, model_id: str, share: float, wrong: str = "-1", step: int | None = None) -> None:
        """Registers it, with room for it beside the active one."""
        write_checkpoint(self.running.it.layout.models / model_id, len(self.gateway.answers))
        self.gateway.answers[model_id] = knowing(share, wrong)
        self.gateway.has_room_for.add(model_id)
        self.http.post("/models/register", json={"id": model_id, "source": "t", "step": step}).raise_for_status()

    def state_of(self, member_id: str) -> str | None:
        """None: it is not a member."""
        gateways = self.http.get("/fleet").json()["gateways"]
        return next((each["state"] for each in gateways if each["id"] == member_id), None)

    def until_state(self, member_id: str, state: str) -> None:
        async def look() -> str | None:
            return await asyncio.to_thread(self.state_of, member_id)

        self.running.do(eventually(look, lambda seen: seen == state))

    def decided(self, job_id: str) -> dict[str, Any]:
        """The promotion, once it is over."""
        self.ended(job_id)
        found: dict[str, Any] = self.http.get(f"/promotions/{job_id}").json()
        assert found["status"] == "done", found["error"]
        return found

    def ended(self, job_id: str) -> None:
        """The job is over."""
        with self.http.stream("GET", f"/jobs/{job_id}/events") as events:  # ends with the job
            for _ in events.iter_text():
                pass

    def until_canary(self, job_id: str) -> None:
        """It runs."""

        async def look() -> Any:
            return (await asyncio.to_thread(self.http.get, f"/promotions/{job_id}")).json()

        self.running.do(eventually(look, lambda seen: seen["canary"]))

    def copy(self, job_id: str, count: int) -> None:
        """Puts as many older copies of a job beside it, each of another id."""
        with closing(sqlite3.connect(self.running.it.layout.database, timeout=240)) as database, database:
            names = [str(row[1]) for row in database.execute("PRAGMA table_info(jobs)")]
            changed = {"id": "id || '_' || :number", "fingerprint": "NULL", "idempotency_key": "NULL"}
            changed["created_at"] = "datetime(created_at, '-' || :number || ' minutes')"
            values = ", ".join(changed.get(name, name) for name in names)
            statement = f"INSERT INTO jobs ({', '.join(names)}) SELECT {values} FROM jobs WHERE id = :id"
            database.executemany(statement, [{"id": job_id, "number": number + 1} for number in range(count)])

    def promote(self, candidate: str, **body: Any) -> dict[str, Any]:
        suite = [{"dataset_ref": "sums.jsonl", "metric": "numeric"}]
        made = self.http.post("/promotions", json={"candidate": candidate, "suite": suite, **body})
        assert made.status_code == 202, made.text
        return self.decided(str(made.json()["job_id"]))


@contextmanager
def control_server(base: Path, *members: str) -> Iterator[ControlServer]:
    def serve() -> AbstractAsyncContextManager[Parts]:
        return _parts(base, members)

    with (
        in_thread("control server", serve) as running,
        httpx.Client(base_url=running.it.url, timeout=240, trust_env=False) as http,
    ):
        there = ControlServer(running, http)
        there.add(ACTIVE, 0.5)
        http.post("/models/set_active", json={"id": ACTIVE}).raise_for_status()
        for name in members:
            there.until_state(name, "ready")
        yield there


@asynccontextmanager
async def _parts(base: Path, names: tuple[str, ...]) -> AsyncIterator[Parts]:
    settings = settings_of(base, batch_items=8, batch_window_items=32)
    gateway = FakeGateway(settings.layout.gateway_socket)
    routes = [datasets.router_of(FileDatasetStore()), evals.router_of(EvalReports())]
    place_database(settings)
    app = create_app(settings, [EvalKind()], more_routes=routes, pace=PACE, job_poll_s=0.3)
    members = {name: FakeMember(name) for name in names}
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(gateway.running())
        listener = socket.create_server(("127.0.0.1", 0))
        await stack.enter_async_context(serving(app, listener))
        lines = [json.dumps({"question": f"What is {a}+1?", "answer": a + 1}) for a in range(QUESTIONS)]
        (settings.layout.datasets / "sums.jsonl").write_text("\n".join(lines))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=240))
        for member in members.values():
            await stack.enter_async_context(member.joined(http))
        yield Parts(url, settings.layout, gateway, members)
