"""Control killed at random moments while evals run: nothing is lost, nothing counted twice."""

import asyncio
import hashlib
import json
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from control.app import create_app
from evals.kind import EvalKind
from evals.tally import TIMING_KEYS
from stepserve.contract import BatchItem, BatchOutput
from tests.eventually import eventually
from tests.integration.control_plane import PACE, settings_of
from tests.integration.eval_control import serve
from tests.integration.fake_gateway import FakeGateway
from tests.integration.forked import CONTEXT, Forked
from tests.integration.migrated import place_database
from tests.unit.control.checkpoint_files import write_checkpoint

KILLS = 10
LONGEST_LIFE_S = 0.8
SAMPLES = (500, 300, 400)
EACH_TAKES_S = 0.15


def greedy(item: BatchItem) -> BatchOutput:
    """The same answer to the same prompt, now right, now wrong, of a length and a loss of its own."""
    number = int.from_bytes(hashlib.sha256(item.model_dump_json().encode()).digest()[:4])
    return BatchOutput(
        text=str(number % 3),
        finish_reason="length" if number % 17 == 0 else "stop",
        prompt_tokens=number % 11,
        completion_tokens=1 + number % 7,
        reference_logprob=-(number % 1000) / 300,
        reference_tokens=1,
    )


def gateway_of(base: Path, takes_s: float) -> FakeGateway:
    gateway = FakeGateway(settings_of(base).layout.gateway_socket)
    gateway.answer = greedy
    gateway.batch_takes_s = takes_s
    return gateway


@asynccontextmanager
async def control(base: Path, **changes: Any) -> AsyncIterator[httpx.AsyncClient]:
    settings = settings_of(base, **changes)
    place_database(settings)
    app = create_app(settings, [EvalKind()], pace=PACE, job_poll_s=0.3)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://control") as http,
    ):
        yield http


async def make_jobs(base: Path, http: httpx.AsyncClient) -> list[str]:
    write_checkpoint(base / "models" / "a")
    lines = [json.dumps({"id": f"q{n}", "question": f"{n}?", "answer": str(n % 3)}) for n in range(max(SAMPLES))]
    (base / "datasets" / "d.jsonl").write_text("\n".join(lines))
    (await http.post("/models/register", json={"id": "a", "source": "t"})).raise_for_status()
    (await http.post("/models/set_active", json={"id": "a"})).raise_for_status()
    body = {"model_id": "a", "name": "n", "dataset_ref": "d.jsonl"}
    made = [await http.post("/eval/jobs", json=body | {"max_samples": samples}) for samples in SAMPLES]
    return [answer.raise_for_status().json()["job_id"] for answer in made]


async def results(base: Path, http: httpx.AsyncClient, jobs: list[str]) -> list[dict[str, Any]]:
    """metrics.json of each, without times, once all are done; every sample is there once."""
    await eventually(lambda: stats(http), lambda seen: seen["done"] == len(jobs))
    found = []
    for job_id, samples in zip(jobs, SAMPLES, strict=True):
        folder = base / "runs" / "eval" / job_id
        ids = [json.loads(line)["id"] for line in (folder / "samples.jsonl").read_text().splitlines()]
        assert sorted(ids) == sorted(f"q{n}" for n in range(samples)), "none lost, none twice"
        metrics = json.loads((folder / "metrics.json").read_text())
        job = (await http.get(f"/jobs/{job_id}")).json()
        assert job["result"] == metrics
        assert [attempt["outcome"] for attempt in job["attempts"]].count("done") == 1
        found.append({key: value for key, value in metrics.items() if key not in TIMING_KEYS})
    return found


async def stats(http: httpx.AsyncClient) -> dict[str, int]:
    seen: dict[str, int] = (await http.get("/jobs/stats")).json()
    return seen


async def undisturbed(base: Path) -> list[dict[str, Any]]:
    async with gateway_of(base, 0).running(), control(base) as http:
        return await results(base, http, await make_jobs(base, http))


async def run_and_kill(base: Path, life_s: float, *, from_up: bool) -> None:
    """Kills control so long after it began to work, which a loaded machine may put off, or after its start."""
    is_up = CONTEXT.Event()
    process = Forked(partial(serve, base, is_up), os.environ)
    ended = asyncio.create_task(process.gone())
    if from_up:
        assert await asyncio.to_thread(is_up.wait, 60)
    await asyncio.wait({ended}, timeout=life_s)
    assert not ended.done(), "control ended by itself"
    process.kill()
    await ended


def test_control_killed_at_any_moment(tmp_path: Path) -> None:
    async def disturbed(base: Path) -> list[dict[str, Any]]:
        seed = random.randrange(2**32)
        print(f"seed {seed}")
        chance = random.Random(seed)
        async with gateway_of(base, EACH_TAKES_S).running():
            async with control(base, max_concurrent_by_type={"eval": 0}) as http:
                jobs = await make_jobs(base, http)
            for number in range(KILLS):
                await run_and_kill(base, chance.uniform(0.05, LONGEST_LIFE_S), from_up=number % 5 != 0)
            async with control(base, max_concurrent_jobs=3) as http:
                found = await results(base, http, jobs)
                ends = [a["outcome"] for job in jobs for a in (await http.get(f"/jobs/{job}")).json()["attempts"]]
                # On a slow machine many a life is over before a job goes on.
                assert ends.count("lost") >= KILLS / 4, "kills came while jobs ran"
                assert set(ends) == {"lost", "done"}
                return found

    assert asyncio.run(disturbed(tmp_path / "wild")) == asyncio.run(undisturbed(tmp_path / "calm"))
