"""Jobs whose templates, schemas or rows would keep Python busy for hours: control answers, and others' jobs go on."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from control.app import create_app
from datagen.kind import DataGenKind
from stepserve.contract import BatchItem, BatchOutput
from tests.eventually import DEADLINE_S, eventually
from tests.integration.control_plane import PACE, settings_of
from tests.integration.fake_gateway import FakeGateway
from tests.integration.migrated import place_database
from tests.unit.control.checkpoint_files import write_checkpoint

LONG = "a" * 300_000
FILTERS = "{{ name }}{% for turn in turns %}{{ text | upper | lower | replace('b', 'c') | length }}{% endfor %}"
_JOINED = "~".join(["text"] * 300)
CONCATENATION = "{{ name }}{% for turn in turns %}{{ '' if " + _JOINED + " }}{% endfor %}"
ROWS: list[dict[str, Any]] = [
    {"name": "one", "turns": [], "text": ""},
    {"name": "two", "turns": [0] * 3000, "text": LONG},
]
BACKTRACKING = {"type": "object", "properties": {"x": {"type": "string", "pattern": "^(a+)+$"}}}


class Here:
    def __init__(self, http: httpx.AsyncClient, gateway: FakeGateway, base: Path) -> None:
        self.http = http
        self.gateway = gateway
        self.base = base

    async def job(self, **config: Any) -> str:
        body = {"model_id": "a", "strategy": "custom", "config": {"decontaminate": False, **config}}
        answer = await self.http.post("/data_gen/jobs", json=body)
        assert answer.status_code == 200, answer.text
        job_id: str = answer.json()["job_id"]
        return job_id

    async def seen(self, job_id: str) -> Any:
        return (await self.http.get(f"/jobs/{job_id}")).json()

    async def ended(self, job_id: str) -> Any:
        return await eventually(lambda: self.seen(job_id), lambda job: job["status"] not in {"pending", "running"})

    def rows(self, rows: list[dict[str, Any]]) -> str:
        path = self.base / "datasets" / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return "rows"


@asynccontextmanager
async def _running(base: Path, limit_s: float) -> AsyncIterator[Here]:
    settings = settings_of(base, max_concurrent_jobs=2)
    gateway = FakeGateway(settings.layout.gateway_socket)
    kind = DataGenKind(settings.layout, limit_s)
    place_database(settings)
    app = create_app(settings, [kind], pace=PACE, job_poll_s=0.3)
    async with gateway.running(), app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://control", timeout=240) as http:
            write_checkpoint(base / "models" / "a")
            (await http.post("/models/register", json={"id": "a", "source": "t"})).raise_for_status()
            (await http.post("/models/set_active", json={"id": "a"})).raise_for_status()
            yield Here(http, gateway, base)


def _tell(base: Path, story: Callable[[Here], Awaitable[None]], limit_s: float = 2.0) -> None:
    async def run() -> None:
        async with _running(base, limit_s) as here:
            await story(here)

    asyncio.run(run())


def test_filters_are_paid_for_by_what_they_read(tmp_path: Path) -> None:
    async def story(here: Here) -> None:
        job = await here.ended(await here.job(template=FILTERS, dataset_ref=here.rows(ROWS), num_examples=2))
        assert (job["status"], job["result"]["accepted"]) == ("done", 1)
        assert job["result"]["rejected"] == {"template_failed": 1}

    _tell(tmp_path, story, limit_s=60.0)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"template": CONCATENATION}, "row '2'"),
        ({"template": "{{name}}", "json_schema": BACKTRACKING}, "the answer to row '1'"),
    ],
    ids=["template", "schema"],
)
def test_a_job_that_freezes_its_worker_fails_and_others_go_on(
    tmp_path: Path, config: dict[str, Any], named: str
) -> None:
    async def story(here: Here) -> None:
        def answer(item: BatchItem) -> BatchOutput:
            schema = item.sampling is not None and item.sampling.json_schema is not None
            return BatchOutput(text=json.dumps({"x": "a" * 100 + "!"}) if schema else "fine", finish_reason="stop")

        here.gateway.answer = answer
        frozen = await here.job(**config, dataset_ref=here.rows(ROWS), num_examples=2)
        await eventually(lambda: here.seen(frozen), lambda job: job["status"] == "running")
        polite = await here.ended(await here.job(template="Say {{n}}", rows=[{"n": "this"}], num_examples=1))
        assert polite["status"] == "done"
        job = await here.ended(frozen)
        assert job["status"] == "failed"
        assert named in job["error"]
        assert "takes longer than 2 s; it was tried 2 times" in job["error"]

    _tell(tmp_path, story)


def test_a_frozen_job_can_be_cancelled(tmp_path: Path) -> None:
    async def story(here: Here) -> None:
        asked = asyncio.Event()

        def answer(_: BatchItem) -> BatchOutput:
            asked.set()  # of row 1, which is handed out while row 2 is worked on
            return BatchOutput(text="fine", finish_reason="stop")

        here.gateway.answer = answer
        frozen = await here.job(template=CONCATENATION, dataset_ref=here.rows(ROWS), num_examples=2)
        async with asyncio.timeout(DEADLINE_S):
            await asked.wait()
        assert (await here.http.post(f"/jobs/{frozen}/cancel")).json()["status"] == "cancelled"
        job = await eventually(lambda: here.seen(frozen), lambda job: job["attempts"][-1]["ended_at"] is not None)
        assert (job["status"], job["attempts"][-1]["outcome"]) == ("cancelled", "cancelled")

    _tell(tmp_path, story, limit_s=3600.0)


def test_a_first_row_that_never_ends_is_refused(tmp_path: Path) -> None:
    async def story(here: Here) -> None:
        config = {"template": CONCATENATION, "dataset_ref": here.rows(ROWS[::-1]), "num_examples": 2}
        asked = asyncio.create_task(
            here.http.post("/data_gen/jobs", json={"model_id": "a", "strategy": "custom", "config": config})
        )
        assert (await here.http.get("/health")).status_code == 200
        answer = await asked
        assert answer.status_code == 422
        assert "config.template: takes longer than 1 s on the first row" in answer.json()["detail"]

    _tell(tmp_path, story, limit_s=1.0)


def test_a_dataset_may_go_while_its_job_runs(tmp_path: Path) -> None:
    async def story(here: Here) -> None:
        taken = asyncio.Event()

        def answer(_: BatchItem) -> BatchOutput:
            if not taken.is_set():
                (tmp_path / "datasets" / "rows.jsonl").unlink()
                taken.set()
            return BatchOutput(text="fine", finish_reason="stop")

        here.gateway.answer = answer
        rows = [{"name": f"{word} {number}"} for number in range(40) for word in ("red", "old", "big")]
        job = await here.ended(
            await here.job(template="{{name}}", dataset_ref=here.rows(rows), num_examples=120, max_similarity=1.0)
        )
        assert (job["status"], job["result"]["accepted"]) == ("done", 120)

    _tell(tmp_path, story)
