"""Jobs from POST to their end, with every way there."""

import asyncio
import re
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from control.errors import JobPaused
from tests.eventually import eventually
from tests.integration.control_plane import ControlPlane, control, control_plane, run_sql, settings_of
from tests.integration.fake_gateway import FakeGateway

pytestmark = pytest.mark.usefixtures("each_database")


async def held_job(here: ControlPlane, **body: Any) -> str:
    """A job that is running and waits."""
    here.kind.may_go.clear()
    here.kind.started.clear()
    job_id = (await here.post("/echo/jobs", model_id="a", **body))["job_id"]
    async with asyncio.timeout(240):
        await here.kind.started.wait()
    return str(job_id)


async def test_a_job_from_post_to_result(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a")
        made = await here.post("/echo/jobs", model_id="a", steps=3)
        assert re.fullmatch(r"echo_\d{8}_\d{6}_[a-z0-9]{4}", made["job_id"])
        assert made == {"job_id": made["job_id"], "status": "pending"}
        job = await here.job(made["job_id"], "done")
        assert job["result"] == {"texts": ["42", "42", "42"]}
        assert (job["progress"]["done"], job["progress"]["total"]) == (3, 3)
        assert job["completed_at"] == job["finished_at"]
        assert job["finished_at"] >= job["started_at"] >= job["created_at"]
        assert (job["attempt"], job["error"], job["config"]["steps"]) == (1, None, 3)
        assert await here.get(f"/echo/jobs/{made['job_id']}") == job
        assert (here.layout.runs / "echo" / made["job_id"] / "texts.txt").is_file()
        assert {batch.model for batch in here.gateway.batches} == {"a"}


async def test_active_stands_for_the_active_model(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.refused(404, "/echo/jobs", model_id="active")
        await here.add_active("a")
        job_id = (await here.post("/echo/jobs", model_id="active"))["job_id"]
        job = await here.job(job_id, "done")
        assert job["model_id"] == job["config"]["model_id"] == "a"


async def test_requests_that_make_no_job(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_model("a")
        assert "'ghost'" in await here.refused(404, "/echo/jobs", model_id="ghost")
        assert "steps: " in await here.refused(422, "/echo/jobs", model_id="a", steps=0)
        assert "stepz: unknown field" in await here.refused(422, "/echo/jobs", model_id="a", stepz=1)
        assert "steps: 13 is refused" in await here.refused(422, "/echo/jobs", model_id="a", steps=13)
        assert "model_id: is missing" in await here.refused(422, "/echo/jobs")
        assert await here.get("/jobs") == {"jobs": [], "total": 0}


async def test_a_job_waits_for_its_model(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
        job_id = (await here.post("/echo/jobs", model_id="b"))["job_id"]
        said = "room to load b or its activation (not possible now: b has no room)"
        await eventually(lambda: here.get(f"/jobs/{job_id}"), lambda job: job["waiting_for"] == said)
        await here.post("/models/set_active", id="b")
        assert (await here.job(job_id, "done"))["waiting_for"] is None


async def test_cancelling(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a")
        running = await held_job(here)
        pending = (await here.post("/echo/jobs", model_id="a"))["job_id"]
        await here.post(f"/jobs/{pending}/cancel")
        await here.post(f"/jobs/{running}/cancel")
        async with asyncio.timeout(240):
            await here.kind.ended.wait()
        for job_id in (running, pending):
            job = await here.get(f"/jobs/{job_id}")
            assert job["status"] == "cancelled"
            assert job["finished_at"]
            assert "over already" in await here.refused(409, f"/jobs/{job_id}/cancel")
        await here.refused(404, "/jobs/ghost/cancel")
        here.kind.may_go.set()
        await here.post(f"/jobs/{running}/retry")
        assert (await here.job(running, "done"))["attempt"] == 2
        await here.refused(409, f"/jobs/{running}/retry")


async def test_cancelling_by_hand(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a")
        running = await held_job(here)
        pending = (await here.post("/echo/jobs", model_id="a"))["job_id"]
        await run_sql(tmp_path, "UPDATE jobs SET status='cancelled' WHERE status='pending'")
        await run_sql(tmp_path, "UPDATE jobs SET status='cancelled' WHERE status='running'")
        async with asyncio.timeout(240):
            await here.kind.ended.wait()
        here.kind.may_go.set()
        last = (await here.post("/echo/jobs", model_id="a"))["job_id"]
        await here.job(last, "done")
        assert [(await here.get(f"/jobs/{job}"))["status"] for job in (running, pending)] == ["cancelled"] * 2
        stats = await here.get("/jobs/stats")
        assert stats == {"pending": 0, "running": 0, "done": 1, "failed": 0, "cancelled": 2, "jobs_last_hour": 1}
        none = {"pending": 0, "running": 0, "done": 0, "failed": 0, "cancelled": 0, "jobs_last_hour": 0}
        assert await here.get("/jobs/stats?type=pull") == none
        assert (await here.http.get("/jobs/stats?type=colour")).status_code == 422
        for job in (running, pending):
            ended = await eventually(partial(here.get, f"/jobs/{job}"), lambda shown: shown["finished_at"])
            assert ended["created_at"] <= ended["finished_at"]


async def test_a_job_set_to_pending_by_hand_runs_again(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a")
        job_id = (await here.post("/echo/jobs", model_id="a"))["job_id"]
        await here.job(job_id, "done")
        await run_sql(tmp_path, "UPDATE jobs SET status='pending'")
        await eventually(
            lambda: here.get(f"/jobs/{job_id}"), lambda job: (job["status"], job["attempt"]) == ("done", 2)
        )


async def test_a_crash_fails_that_job_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a")
        here.kind.crash = ZeroDivisionError("by zero")
        failed = (await here.post("/echo/jobs", model_id="a"))["job_id"]
        assert (await here.job(failed, "failed"))["error"] == "ZeroDivisionError: by zero"
        here.kind.crash = None
        await here.job((await here.post("/echo/jobs", model_id="a"))["job_id"], "done")
    assert "Traceback" in caplog.text


async def test_a_paused_job_says_why_and_goes_on_when_it_can(tmp_path: Path) -> None:
    async with control_plane(tmp_path, job_retries=0) as here:
        here.kind.crash = JobPaused("the disk is full")
        await here.add_active("a")
        job_id = (await here.post("/echo/jobs", model_id="a"))["job_id"]
        paused = await eventually(lambda: here.get(f"/jobs/{job_id}"), lambda job: job["error"] and job["waiting_for"])
        assert (paused["status"], paused["error"]) == ("pending", "the disk is full")
        assert paused["waiting_for"].startswith("its next attempt")
        here.kind.crash = None
        assert (await here.job(job_id, "done"))["error"] is None


async def test_other_weights_fail_the_job(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a")
        here.gateway.refuse_batches_with = (409, "digest_mismatch")
        job = await here.job((await here.post("/echo/jobs", model_id="a"))["job_id"], "failed")
        assert job["error"] == "digest_mismatch"


async def test_a_model_that_left_the_engine_sends_the_job_back(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a", seed=0)
        here.gateway.refuse_batches_with = (404, "model_not_found")
        job_id = (await here.post("/echo/jobs", model_id="a"))["job_id"]
        await eventually(
            lambda: here.get(f"/jobs/{job_id}"), lambda job: (job["status"], job["attempt"]) == ("pending", 1)
        )
        here.gateway.refuse_batches_with = None
        await here.post("/models/set_active", id="a")
        assert (await here.job(job_id, "done"))["attempt"] == 2


async def test_a_gateway_that_restarts_does_not_fail_the_job(tmp_path: Path) -> None:
    gateway = FakeGateway(settings_of(tmp_path).layout.gateway_socket)
    async with control(tmp_path, gateway) as here:
        async with gateway.running():
            await here.add_active("a")
            job_id = await held_job(here)
        here.kind.may_go.set()
        async with gateway.running():
            await here.job(job_id, "done")


async def test_stopping_gives_the_job_back_and_the_next_start_takes_it_up(tmp_path: Path) -> None:
    gateway = FakeGateway(settings_of(tmp_path).layout.gateway_socket)
    async with gateway.running():
        async with control(tmp_path, gateway) as here:
            await here.add_active("a")
            job_id = await held_job(here)
        async with control(tmp_path, gateway) as here:
            assert (await here.job(job_id, "done"))["attempt"] == 2


async def test_what_a_killed_process_held_is_taken_up(tmp_path: Path) -> None:
    gateway = FakeGateway(settings_of(tmp_path).layout.gateway_socket)
    async with gateway.running():
        async with control(tmp_path, gateway) as here:
            await here.add_active("a")
            held = await held_job(here)
        await taken_and_killed(tmp_path)
        async with control(tmp_path, gateway, job_lease_s=3600.0) as here:
            assert (await here.job(held, "done"))["attempt"] == 3


async def taken_and_killed(base: Path) -> int:
    """A control of its own takes the job that waits, and is killed; its process id."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.killed_control", str(base), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(240):
            assert await process.stdout.readline() == b"started\n"
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()
    return process.pid


async def test_a_job_that_freezes_control_is_tried_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor tells the next control which one it ended because it stood still."""
    gateway = FakeGateway(settings_of(tmp_path).layout.gateway_socket)
    async with gateway.running():
        async with control(tmp_path, gateway) as here:
            await here.add_active("a")
            held = await held_job(here)
        for status in ("pending", "failed"):
            monkeypatch.setenv("STEPSERVE_STOOD_STILL", str(await taken_and_killed(tmp_path)))
            async with control(tmp_path, gateway, max_concurrent_by_type={"echo": 0}) as here:
                job = await here.get(f"/jobs/{held}")
                assert job["status"] == status
                assert ["its process stood still" in (each["error"] or "") for each in job["attempts"]][-1]
        assert "for the second time" in job["error"]
        async with control(tmp_path, gateway) as here:
            await here.post(f"/jobs/{held}/retry")
            assert (await here.job(held, "done"))["attempt"] == 4


async def test_a_lease_of_another_host_is_taken_over_once_it_is_not_renewed(tmp_path: Path) -> None:
    """Whatever its wall clock says: this one is a life ahead of ours."""
    elsewhere = (
        "UPDATE jobs SET status='running', lease_owner='elsewhere.example/b/1/1/1', attempt=1, lease_expires_at="
    )

    async def renew() -> None:
        """For twice the length of a lease, each time an hour in the past or in the future."""
        for number in range(10):
            await asyncio.sleep(0.2)
            year = 2001 + 90 * (number % 2)
            assert await run_sql(
                tmp_path,
                f"UPDATE jobs SET lease_expires_at='{year}-01-01 00:00:0{number}.000000' WHERE status='running'",
            )

    async with control_plane(tmp_path, job_lease_s=1.0) as here:
        await here.add_active("a")
        here.kind.may_go.clear()
        job_id = await held_job(here)
        await run_sql(tmp_path, f"{elsewhere}'2099-01-01 00:00:00.000000'")
        renewals = asyncio.create_task(renew())
        async with asyncio.timeout(240):
            await here.kind.ended.wait()
        await renewals
        job = await here.get(f"/jobs/{job_id}")
        assert (job["status"], job["attempt"]) == ("running", 1), "a live lease is respected"
        here.kind.may_go.set()
        job = await here.job(job_id, "done")
        assert [attempt["outcome"] for attempt in job["attempts"]][-1] == "done"
        assert job["attempt"] == 2


async def test_idempotency_key(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a")
        headers = {"Idempotency-Key": "k1"}
        body = {"model_id": "a", "steps": 2}
        answers = await asyncio.gather(*(here.http.post("/echo/jobs", json=body, headers=headers) for _ in range(4)))
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["job_id"] for answer in answers}) == 1
        other = await here.http.post("/echo/jobs", json=body | {"steps": 3}, headers=headers)
        assert other.status_code == 409
        assert len((await here.get("/jobs"))["jobs"]) == 1


async def test_listing(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
        done = (await here.post("/echo/jobs", model_id="a"))["job_id"]
        await here.job(done, "done")
        pending = (await here.post("/echo/jobs", model_id="b"))["job_id"]

        async def ids(query: str) -> list[str]:
            return [job["id"] for job in (await here.get(f"/jobs?{query}"))["jobs"]]

        assert await ids("") == [pending, done]
        assert await ids("limit=1") == [pending]
        assert await ids("status=done") == [done]
        assert await ids("type=echo&status=pending") == [pending]
        assert await ids("limit=1&offset=1") == [done]
        assert await ids("offset=2") == []
        assert (await here.get("/jobs?limit=1&offset=1"))["total"] == 2
        assert (await here.get("/jobs?status=done&offset=5"))["total"] == 1
        assert await ids(f"text={done[-4:].upper()}") == [done]
        assert await ids("text=%25") == [], "it is text, not a pattern"
        for query in ("offset=-1", "limit=0", "limit=1001", "limit=1000000", "limit=x", "status=odd", "type=other"):
            response = await here.http.get(f"/jobs?{query}")
            assert response.status_code == 422, query
            assert query.split("=")[0] in response.json()["detail"]
        assert (await here.http.get("/jobs/ghost")).status_code == 404
        assert (await here.http.get("/nothing")).json() == {"detail": "Not Found"}


async def test_no_more_jobs_at_a_time_than_allowed(tmp_path: Path) -> None:
    async with control_plane(tmp_path, max_concurrent_jobs=2) as here:
        await here.add_active("a")
        here.kind.may_go.clear()
        for _ in range(3):
            await here.post("/echo/jobs", model_id="a")
        stats = await eventually(lambda: here.get("/jobs/stats"), lambda stats: stats["running"] == 2)
        assert stats["pending"] == 1
        here.kind.may_go.set()
        await eventually(lambda: here.get("/jobs/stats"), lambda stats: stats["done"] == 3)
