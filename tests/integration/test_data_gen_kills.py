"""Control killed at random moments while shards are made, and a trainer that takes each away as soon as it is there."""

import asyncio
import json
import math
import os
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from control.app import create_app
from datagen.kind import DataGenKind
from stepserve.contract import BatchItem, BatchOutput
from tests.eventually import DEADLINE_S, eventually
from tests.integration.control_plane import PACE, settings_of
from tests.integration.datagen_control import serve
from tests.integration.fake_gateway import FakeGateway
from tests.integration.forked import Forked
from tests.integration.migrated import place_database
from tests.unit.control.checkpoint_files import write_checkpoint

KILLS = 4
LONGEST_LIFE_S = 0.4
EACH_TAKES_S = 0.04
ROWS = [{"a": a, "b": b} for a in range(10, 40) for b in range(50, 70)]
WANTED = 500
SHARD_SIZE = 7


def mostly_adds(item: BatchItem) -> BatchOutput:
    assert item.messages is not None
    a, b = map(int, re.findall(r"\d+", item.messages[-1].content))
    wrong = (a + b) % 11 == 0
    return BatchOutput(text=str(a + b + wrong), finish_reason="stop", prompt_tokens=5, completion_tokens=2)


@asynccontextmanager
async def control(base: Path, **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
    settings = settings_of(base, **changes)
    place_database(settings)
    app = create_app(settings, [DataGenKind(settings.layout)], pace=PACE, job_poll_s=0.3)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://control") as http,
    ):
        yield http


async def make_jobs(base: Path, http: httpx.AsyncClient) -> list[str]:
    write_checkpoint(base / "models" / "a")
    (await http.post("/models/register", json={"id": "a", "source": "t"})).raise_for_status()
    (await http.post("/models/set_active", json={"id": "a"})).raise_for_status()
    made = []
    for template in ("What is {{a}}+{{b}}?", "Compute {{b}}+{{a}}."):
        config = {"template": template, "rows": ROWS, "verify": "executed", "num_examples": WANTED}
        config |= {"shard_size": SHARD_SIZE, "against_earlier_shards": False}
        body = {"model_id": "a", "strategy": "custom", "config": config}
        made.append((await http.post("/data_gen/jobs", json=body)).raise_for_status().json()["job_id"])
    return made


class Trainer:
    """Sees only whole shards, each once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.taken: dict[str, list[dict[str, Any]]] = {}

    def take(self) -> None:
        for path in self._folder.iterdir():
            assert re.fullmatch(r"shard_\d{4}-\d\d-\d\d_\d{3,}\.jsonl", path.name), f"{path.name} is no whole shard"
            assert path.name not in self.taken, f"{path.name} came again"
            self.taken[path.name] = [json.loads(line) for line in path.read_text().splitlines()]
            path.unlink()


async def run_and_kill(base: Path, trainer: Trainer, life_s: float) -> None:
    """Killed `life_s` after its first line in a log."""
    process = Forked(partial(serve, base), os.environ)
    ended = asyncio.create_task(process.gone())
    loop = asyncio.get_running_loop()
    before_bytes, dies_s, gives_up_s = logged_bytes(base), math.inf, loop.time() + DEADLINE_S
    while loop.time() < min(dies_s, gives_up_s):
        await asyncio.wait({ended}, timeout=0.005)
        assert not ended.done(), "control ended by itself"
        trainer.take()
        if dies_s == math.inf and logged_bytes(base) != before_bytes:
            dies_s = loop.time() + life_s
    process.kill()
    await ended
    assert dies_s < math.inf, "it made nothing"
    trainer.take()


def logged_bytes(base: Path) -> int:
    return sum(path.stat().st_size for path in (base / "runs" / "data_gen").glob("*/attempts.jsonl"))


async def test_control_killed_at_any_moment(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    gateway = FakeGateway(settings_of(tmp_path).layout.gateway_socket)
    gateway.answer = mostly_adds
    gateway.batch_takes_s = EACH_TAKES_S
    trainer = Trainer(tmp_path / "train_shards_out")
    async with gateway.running():
        async with control(tmp_path, max_concurrent_by_type={"data_gen": 0}) as http:
            jobs = await make_jobs(tmp_path, http)
        for _ in range(KILLS):
            await run_and_kill(tmp_path, trainer, chance.uniform(0.0, LONGEST_LIFE_S))
        before = len(trainer.taken)
        gateway.batch_takes_s = 0.0
        async with control(tmp_path, max_concurrent_jobs=2) as http:

            async def look() -> Any:
                trainer.take()
                return (await http.get("/jobs/stats")).json()

            await eventually(look, lambda seen: seen["done"] == len(jobs))
            trainer.take()
            found = [(await http.get(f"/data_gen/jobs/{job}")).json() for job in jobs]
    assert before > 0, "the kills came while shards were made"
    assert set(trainer.taken) == {name for job in found for name in job["shards"]}
    for job in found:
        outcomes = [attempt["outcome"] for attempt in job["attempts"]]
        assert outcomes.count("lost") >= 2, outcomes
        assert job["result"]["accepted"] == WANTED
        rows = [row for name in job["shards"] for row in trainer.taken[name]]
        assert len(rows) == len({row["id"] for row in rows}) == WANTED
        assert {row["metadata"]["job_id"] for row in rows} == {job["id"]}
        sizes = [len(trainer.taken[name]) for name in job["shards"]]
        assert sizes == [SHARD_SIZE] * (WANTED // SHARD_SIZE) + [WANTED % SHARD_SIZE]
