"""What the queue promises beside the life of one job: order, limits, second chances, news, a lent engine."""

import asyncio
import signal
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from control.errors import GatewayUnavailable
from tests.eventually import eventually
from tests.integration.control_plane import ControlPlane, control, control_plane, run_sql, settings_of
from tests.integration.fake_gateway import FakeGateway

pytestmark = pytest.mark.usefixtures("each_database")


async def make(here: ControlPlane, **body: Any) -> str:
    return str((await here.post("/echo/jobs", **({"model_id": "a"} | body)))["job_id"])


async def active_is(here: ControlPlane, model_id: str) -> None:
    await eventually(lambda: here.get("/models/active"), lambda model: model["id"] == model_id)


async def test_higher_priorities_first_then_the_oldest(tmp_path: Path) -> None:
    gateway = FakeGateway(settings_of(tmp_path).layout.gateway_socket)
    async with gateway.running():
        async with control(tmp_path, gateway, max_concurrent_by_type={"echo": 0}) as here:
            await here.add_active("a")
            jobs = [await make(here, priority=priority) for priority in (0, 5, -1, 5)]
        async with control(tmp_path, gateway) as here:
            done = [await here.job(job_id, "done") for job_id in jobs]
    order = sorted(range(4), key=lambda number: str(done[number]["started_at"]))
    assert order == [1, 3, 0, 2]
    assert [job["priority"] for job in done] == [0, 5, -1, 5]


async def test_a_type_has_its_own_limit(tmp_path: Path) -> None:
    async with control_plane(tmp_path, max_concurrent_jobs=3, max_concurrent_by_type={"echo": 2}) as here:
        await here.add_active("a")
        here.kind.may_go.clear()
        for _ in range(4):
            await make(here)
        await eventually(lambda: here.get("/jobs/stats"), lambda stats: stats["running"] == 2)
        here.kind.may_go.set()
        await eventually(lambda: here.get("/jobs/stats"), lambda stats: stats["done"] == 4)
        assert here.kind.most == 2


async def test_a_full_queue_says_so(tmp_path: Path) -> None:
    async with control_plane(tmp_path, max_pending_jobs=2) as here:
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
        answers = await asyncio.gather(
            *(here.http.post("/echo/jobs", json={"model_id": "b", "steps": 1}) for _ in range(5))
        )
        assert sorted(answer.status_code for answer in answers) == [200, 200, 429, 429, 429]
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert int(refused.headers["Retry-After"]) > 0
        assert "2 jobs are pending" in refused.json()["detail"]


async def test_what_can_pass_is_tried_again_after_a_rest_that_outlives_restarts(tmp_path: Path) -> None:
    gateway = FakeGateway(settings_of(tmp_path).layout.gateway_socket)
    async with gateway.running():
        async with control(tmp_path, gateway) as here:
            await here.add_active("a")
            await here.job(await make(here), "done")  # so the switch, which ends rests, has been noticed
            here.kind.crash = GatewayUnavailable("the gateway is away")
            job_id = await make(here)
            waiting = await eventually(
                lambda: here.get(f"/jobs/{job_id}"), lambda job: "next attempt" in (job["waiting_for"] or "")
            )
            announced, _, at = waiting["waiting_for"].partition(", at ")
            assert (waiting["status"], announced) == ("pending", "its next attempt")
        async with control(tmp_path, gateway) as here:
            job = await here.job(job_id, "done")
            following = job["attempts"][waiting["attempt"]]
            assert datetime.fromisoformat(following["started_at"]) >= datetime.fromisoformat(at)
            *earlier, last = [(a["outcome"], a["error"]) for a in job["attempts"]]
            assert last == ("done", None)
            assert set(earlier) == {("released", "the gateway is away")}
            assert all(a["ended_at"] >= a["started_at"] for a in job["attempts"])


async def test_attempts_that_get_nowhere_come_to_an_end(tmp_path: Path) -> None:
    async with control_plane(tmp_path, job_retries=1) as here:
        await here.add_active("a")
        here.kind.crash = GatewayUnavailable("the gateway is away")
        job_id = await make(here)
        await eventually(
            lambda: here.get(f"/jobs/{job_id}"), lambda job: (job["status"], job["attempt"]) == ("pending", 1)
        )
        await run_sql(tmp_path, "UPDATE jobs SET not_before = NULL")
        job = await here.job(job_id, "failed")
        assert job["error"] == "given up after 2 attempts that got nowhere: the gateway is away"
        here.kind.crash = None
        await here.post(f"/jobs/{job_id}/retry")
        assert (await here.job(job_id, "done"))["attempt"] == 3


async def test_a_crash_is_not_tried_again(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a")
        here.kind.crash = ZeroDivisionError("by zero")
        job = await here.job(await make(here), "failed")
        assert [(a["outcome"], a["error"]) for a in job["attempts"]] == [("failed", "ZeroDivisionError: by zero")]


async def test_the_same_work_is_done_once_where_that_is_wished(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
        first = await make(here, steps=2)
        same = {"model_id": "a", "steps": 2, "dedupe": True, "priority": 3}
        answers = await asyncio.gather(*(here.post("/echo/jobs", **same) for _ in range(3)))
        assert {answer["job_id"] for answer in answers} == {first}
        assert all(answer["deduplicated"] for answer in answers)
        await here.job(first, "done")
        assert (await here.post("/echo/jobs", **same))["status"] == "done"
        assert await make(here, steps=2) != first, "only where it is wished"
        for other in ({"steps": 3}, {"model_id": "b"}):
            assert "deduplicated" not in await here.post("/echo/jobs", **(same | other))


async def test_a_failed_job_does_not_stand_for_new_work(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a")
        here.kind.crash = ZeroDivisionError()
        failed = await make(here, dedupe=True)
        await here.job(failed, "failed")
        assert await make(here, dedupe=True) != failed


async def test_events_tell_each_state_and_end_with_the_last(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a")
        here.kind.may_go.clear()
        seen = []
        async for name, data in here.events(f"/jobs/{await make(here, steps=3)}/events"):
            seen.append((name, data["status"], data["progress"]["done"]))
            if data["status"] == "running":
                here.kind.may_go.set()
        states = [status for name, status, _ in seen if name == "state"]
        assert states[-2:] == ["running", "done"]
        assert seen[-1] == ("state", "done", 3)
        assert set(states) <= {"pending", "running", "done"}
        assert (await here.http.get("/jobs/ghost/events")).status_code == 404


async def test_events_see_what_was_changed_by_hand(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
        states = []
        async for _, data in here.events(f"/jobs/{await make(here, model_id='b')}/events"):
            states.append(data["status"])
            await run_sql(tmp_path, "UPDATE jobs SET status='cancelled'")
        assert states == ["pending", "cancelled"]


async def test_a_job_whose_model_was_removed_fails_and_cannot_be_retried(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
        job_id = await make(here, model_id="b")
        await here.add_model("c", seed=2)
        failed = await make(here, model_id="c")
        await here.post(f"/jobs/{failed}/cancel")
        assert (await here.http.delete("/models/c")).status_code == 200
        await run_sql(tmp_path, "DELETE FROM models WHERE id='b'")
        assert "its model was removed" in (await here.job(job_id, "failed"))["error"]
        for gone in (job_id, failed):
            assert "was removed" in await here.refused(409, f"/jobs/{gone}/retry")


@pytest.mark.parametrize("when_inactive", ["wait", "switch"])
async def test_a_job_for_another_model_runs_on_it_beside_the_active_one(tmp_path: Path, when_inactive: str) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
        here.gateway.has_room_for = {"b"}
        await here.job(await make(here, model_id="b", when_inactive=when_inactive), "done")
        assert here.gateway.activated == ["a"], "nobody switched"
        assert here.gateway.batches[-1].digest == here.gateway.beside["b"].digest
        assert (await here.http.delete("/models/b")).status_code == 200
        assert here.gateway.beside == {}, "a model that is gone is not kept loaded"


async def test_a_job_whose_model_left_its_place_beside_comes_back_to_it(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
        here.gateway.has_room_for = {"b"}
        await here.job(await make(here, model_id="b"), "done")
        here.gateway.beside.clear()
        job_id = await make(here, model_id="b")
        await eventually(lambda: here.get(f"/jobs/{job_id}"), lambda job: job["attempt"] == 1)
        await run_sql(tmp_path, "UPDATE jobs SET not_before = NULL")
        assert (await here.job(job_id, "done"))["attempt"] == 2


async def test_the_engine_is_lent_in_a_quiet_moment_and_given_back(tmp_path: Path) -> None:
    async with control_plane(tmp_path, max_concurrent_jobs=2) as here:
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
        here.kind.may_go.clear()
        first = await make(here)
        await here.job(first, "running")
        borrower = await make(here, model_id="b", when_inactive="switch")
        later = await make(here, model_id="b")
        reason = "a quiet moment to switch to model b (1 job runs)"
        waiting = await eventually(lambda: here.get(f"/jobs/{borrower}"), lambda job: job["waiting_for"] == reason)
        assert waiting["status"] == "pending"
        here.kind.may_go.set()
        await here.job(borrower, "done")
        await active_is(here, "a")
        assert here.gateway.activated == ["a", "b", "a"]
        causes = [row["cause"] for row in (await here.get("/models/activations"))["activations"]]
        assert causes == [f"give back after {borrower}", f"job {borrower}", "request"]
        assert {batch.model for batch in here.gateway.batches} == {"a", "b"}
        await here.job(await make(here), "done")
        assert (await here.get(f"/jobs/{later}"))["status"] == "pending", "it wished to wait"


async def test_a_job_says_that_it_waits_for_a_place(tmp_path: Path) -> None:
    async with control_plane(tmp_path, max_concurrent_jobs=1) as here:
        await here.add_active("a")
        here.kind.may_go.clear()
        first = await make(here)
        await here.job(first, "running")
        later = await make(here)
        assert (await here.get(f"/jobs/{later}"))["waiting_for"] == "a free place (1 of 1 jobs run)"
        listed = {job["id"]: job["waiting_for"] for job in (await here.get("/jobs"))["jobs"]}
        assert listed == {first: None, later: "a free place (1 of 1 jobs run)"}
        here.kind.may_go.set()
        assert (await here.job(later, "done"))["waiting_for"] is None


async def test_a_model_that_does_not_come_up_fails_the_job_that_wished_it(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
        here.gateway.fail_with = "out of memory"
        job = await here.job(await make(here, model_id="b", when_inactive="switch"), "failed")
        assert job["error"] == "out of memory"
        await here.job(await make(here), "done")
        assert (await here.get("/models/active"))["id"] == "a"


async def test_who_switches_during_a_loan_has_the_last_word(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
        await here.add_model("c", seed=2)
        here.kind.may_go.clear()
        borrower = await make(here, model_id="b", when_inactive="switch")
        async with asyncio.timeout(240):
            await here.kind.started.wait()
        await here.post("/models/set_active", id="c")
        await here.post(f"/jobs/{borrower}/cancel")
        here.kind.may_go.set()
        await here.job(await make(here, model_id="c"), "done")
        assert here.gateway.activated == ["a", "b", "c"]


async def test_the_engine_is_given_back_after_a_kill(tmp_path: Path) -> None:
    gateway = FakeGateway(settings_of(tmp_path).layout.gateway_socket)
    async with gateway.running():
        async with control(tmp_path, gateway, max_concurrent_by_type={"echo": 0}) as here:
            await here.add_active("a", seed=0)
            await here.add_model("b", seed=1)
            borrower = await make(here, model_id="b", when_inactive="switch")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.integration.killed_control", str(tmp_path), stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(240):
                assert await process.stdout.readline() == b"started\n"
        finally:
            process.send_signal(signal.SIGKILL)
            await process.wait()
        assert gateway.activated == ["a", "b"]
        async with control(tmp_path, gateway) as here:
            job = await here.job(borrower, "done")
            assert [attempt["outcome"] for attempt in job["attempts"]] == ["lost", "done"]
            await active_is(here, "a")
            assert gateway.activated == ["a", "b", "a"]
