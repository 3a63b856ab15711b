"""Control killed at random moments while promotions run: each is decided as if nothing had happened."""

import asyncio
import json
import os
import random
from pathlib import Path
from typing import Any

import httpx

from control.promotion.files import replay
from tests.eventually import eventually
from tests.integration.control_plane import settings_of
from tests.integration.fake_gateway import FakeGateway
from tests.integration.test_kills import control, run_and_kill
from tests.integration.test_promotions import QUESTIONS, SUITE, knowing
from tests.unit.control.checkpoint_files import write_checkpoint

KILLS = int(os.environ.get("PROMOTION_KILLS", "8"))  # 50 of them take minutes
LONGEST_LIFE_S = 0.6
EACH_TAKES_S = 0.1
KNOWS = {"old": 0.5, "good": 0.62, "bad": 0.4, "copy": 0.5}
DECISIONS = {"good": "promoted", "bad": "refused", "copy": "undecided"}
_DECIDED = ("decision", "reasons", "per_metric", "guards", "items")


def gateway_of(base: Path, takes_s: float) -> FakeGateway:
    gateway = FakeGateway(settings_of(base).layout.gateway_socket)
    gateway.answers = {model: knowing(share) for model, share in KNOWS.items()}
    gateway.has_room_for = {*KNOWS}
    gateway.batch_takes_s = takes_s
    return gateway


async def ask_for(base: Path, http: httpx.AsyncClient) -> dict[str, str]:
    """The job of each candidate."""
    for number, model in enumerate(KNOWS):
        write_checkpoint(base / "models" / model, number)
        (await http.post("/models/register", json={"id": model, "source": "t"})).raise_for_status()
    lines = [json.dumps({"question": f"What is {a}+1?", "answer": a + 1}) for a in range(QUESTIONS)]
    (base / "datasets" / "sums.jsonl").write_text("\n".join(lines))
    (await http.post("/models/set_active", json={"id": "old"})).raise_for_status()
    jobs = {}
    for candidate in DECISIONS:
        body = {"candidate": candidate, "suite": SUITE, "on_pass": "activate", "rule": {"margin": 0.0}}
        jobs[candidate] = (await http.post("/promotions", json=body)).raise_for_status().json()["job_id"]
    return jobs


async def decided(base: Path, http: httpx.AsyncClient, jobs: dict[str, str]) -> dict[str, Any]:
    """What was decided of each candidate, times and digests of times apart."""

    async def stats() -> Any:
        return (await http.get("/jobs/stats")).json()

    await eventually(stats, lambda seen: seen["done"] == len(jobs))
    found = {}
    for candidate, job_id in jobs.items():
        job = (await http.get(f"/promotions/{job_id}")).json()
        assert job["decision"] == DECISIONS[candidate]
        again, differs = replay(base / "runs" / "promotion" / job_id)
        assert (again["decision"], differs) == (job["decision"], [])
        assert [attempt["outcome"] for attempt in job["attempts"]].count("done") == 1
        found[candidate] = {key: job["result"][key] for key in _DECIDED}
    assert (await http.get("/models/active")).json()["id"] == "good"
    switches = (await http.get("/models/activations")).json()["activations"]
    assert {row["id"] for row in switches} == {"old", "good"}, "no other candidate ever served"
    return found


def test_control_killed_at_any_moment_decides_the_same(tmp_path: Path) -> None:
    async def disturbed(base: Path) -> dict[str, Any]:
        seed = random.randrange(2**32)
        print(f"seed {seed}")
        chance = random.Random(seed)
        async with gateway_of(base, EACH_TAKES_S).running():
            async with control(base, max_concurrent_by_type={"promotion": 0}) as http:
                jobs = await ask_for(base, http)
            for number in range(KILLS):
                await run_and_kill(base, chance.uniform(0.05, LONGEST_LIFE_S), from_up=number % 5 != 0)
            async with control(base, max_concurrent_jobs=3) as http:
                return await decided(base, http, jobs)

    async def undisturbed(base: Path) -> dict[str, Any]:
        async with gateway_of(base, 0).running(), control(base) as http:
            return await decided(base, http, await ask_for(base, http))

    assert asyncio.run(disturbed(tmp_path / "wild")) == asyncio.run(undisturbed(tmp_path / "calm"))
