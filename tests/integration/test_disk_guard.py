"""A disk that fills up while jobs run: a real one, in memory where there is one, so that nothing else lives on it."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from control.jobs.runner import JobRunner
from tests.eventually import eventually
from tests.integration.control_plane import control_plane

MARGIN_BYTES = 256 * 1024 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 4 * MARGIN_BYTES
    with tempfile.TemporaryDirectory(dir=memory if roomy else tmp_path) as folder:
        yield Path(folder)


@contextmanager
def filled(disk: Path, size_bytes: int) -> Iterator[None]:
    """So many bytes are taken, and given back."""
    file = disk / "somebody-elses"
    with file.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, size_bytes)
    try:
        yield
    finally:
        file.unlink()


async def test_jobs_pause_before_the_disk_is_full_and_go_on_when_there_is_space(disk: Path) -> None:
    threshold = shutil.disk_usage(disk).free - MARGIN_BYTES
    async with control_plane(disk, min_free_disk_bytes=threshold) as here:
        await here.add_active("a")
        here.kind.may_go.clear()
        running = (await here.post("/echo/jobs", model_id="a"))["job_id"]
        await here.job(running, "running")
        with filled(disk, 2 * MARGIN_BYTES):
            paused = await here.job(running, "pending")
            assert "min_free_disk_bytes" in paused["error"]
            assert paused["waiting_for"].startswith(f"space on the disk of {disk}")
            here.kind.may_go.set()
            later = (await here.post("/echo/jobs", model_id="a"))["job_id"]
            assert (await here.get(f"/jobs/{later}"))["waiting_for"].startswith("space on the disk")
            assert (await here.get("/jobs/stats"))["pending"] == 2
            metrics = (await here.http.get("/metrics")).text
            assert f"stepserve_jobs_paused {len(here.app.state.services[JobRunner].types)}.0" in metrics
        for job_id in (running, later):
            done = await here.job(job_id, "done")
            assert (done["error"], done["waiting_for"]) == (None, None)
        attempts = (await here.get(f"/jobs/{running}"))["attempts"]
        assert [attempt["outcome"] for attempt in attempts] == ["released", "done"]


async def test_a_disk_that_is_full_all_the_same_ends_no_job(tmp_path: Path) -> None:
    async with control_plane(tmp_path, job_retries=0) as here:
        await here.add_active("a")
        here.kind.crash = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "samples.jsonl")
        job_id = (await here.post("/echo/jobs", model_id="a"))["job_id"]
        resting = await eventually(
            lambda: here.get(f"/jobs/{job_id}"), lambda job: job["attempt"] == 1 and job["error"]
        )
        assert (resting["status"], resting["error"]) == (
            "pending",
            "the disk of samples.jsonl is full: the job goes on when there is space",
        )
        here.kind.crash = None
        await here.job(job_id, "done")


async def test_off_by_zero(tmp_path: Path) -> None:
    async with control_plane(tmp_path, min_free_disk_bytes=0) as here:
        await here.add_active("a")
        await here.job((await here.post("/echo/jobs", model_id="a"))["job_id"], "done")
