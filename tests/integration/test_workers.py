"""Several job runners on one database, and clocks that cannot be trusted."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from control.jobs.attempt import RunLock
from control.jobs.ending import Done, Requeued
from tests.eventually import eventually
from tests.integration.control_plane import settings_of
from tests.integration.worker_pool import MovedClock, worker_pool

pytestmark = pytest.mark.usefixtures("each_database")

JOBS = 60
LEASE_S = 0.4


async def test_three_workers_run_each_job_once(tmp_path: Path) -> None:
    async with worker_pool(tmp_path) as here:
        jobs = [await here.job() for _ in range(JOBS)]
        for _ in range(3):
            await here.start_runner()
        await eventually(here.queue.stats, lambda stats: stats["done"] == JOBS)
        assert here.kind.runs == dict.fromkeys(jobs, 1)
        owners = {(await here.queue.attempts(job_id))[0].owner for job_id in jobs}
        assert len(owners) == 3, "all took part"


@pytest.mark.parametrize("hours", [1, -1, 24 * 365])
async def test_a_clock_that_jumps_takes_no_job_from_who_runs_it(tmp_path: Path, hours: int) -> None:
    clock = MovedClock()
    async with worker_pool(tmp_path, clock) as here:
        here.kind.may_go.clear()
        await here.start_runner(LEASE_S)
        job_id = await here.job()
        await eventually(here.queue.stats, lambda stats: stats["running"] == 1)
        await here.start_runner(LEASE_S)
        clock.off = timedelta(hours=hours)
        await asyncio.sleep(3 * LEASE_S)
        assert (here.kind.runs[job_id], (await here.queue.get(job_id)).status) == (1, "running")
        here.kind.may_go.set()
        await eventually(here.queue.stats, lambda stats: stats["done"] == 1)
        assert (await here.queue.get(job_id)).attempt == 1


async def test_a_clock_that_went_back_does_not_keep_a_job_waiting(tmp_path: Path) -> None:
    clock = MovedClock()
    async with worker_pool(tmp_path, clock) as here:
        await here.job()
        taken = await here.queue.take("me", ["count"])
        assert taken is not None
        await here.queue.end(taken, Requeued("later", backoff_s=60.0))
        assert await here.queue.take("me", ["count"]) is None
        clock.off = timedelta(hours=-1)
        assert await here.queue.take("me", ["count"])


async def test_no_job_ends_before_it_began_whatever_the_clock_says(tmp_path: Path) -> None:
    clock = MovedClock()
    async with worker_pool(tmp_path, clock) as here:
        job_id = await here.job()
        clock.off = timedelta(seconds=-1)
        taken = await here.queue.take("me", ["count"])
        assert taken is not None
        clock.off = timedelta(seconds=-2)
        await here.queue.end(taken, Done({}))
        job = await here.queue.get(job_id)
        assert job.created_at == job.started_at == job.finished_at


async def test_a_run_that_still_lives_keeps_others_out_of_its_files(tmp_path: Path) -> None:
    async with worker_pool(tmp_path) as here:
        job_id = await here.job()
        folder = settings_of(tmp_path).layout.runs / "count" / job_id
        folder.mkdir(parents=True)
        with RunLock(folder):
            await here.start_runner()
            attempts = await eventually(lambda: here.queue.attempts(job_id), lambda rows: rows and rows[0].ended_at)
            assert (attempts[0].outcome, attempts[0].error) == ("released", "an earlier attempt is still alive")
            assert here.kind.runs[job_id] == 0
