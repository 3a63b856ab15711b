"""POST /pull onto a disk that is too small."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.eventually import eventually
from tests.integration.fake_hub import FakeHub
from tests.integration.mounts import small_file_system
from tests.integration.pulls import WEIGHTS, add, ended, pull, pulling


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with small_file_system(tmp_path / "disk", "80m") as folder:
        yield folder


async def test_a_disk_that_fills_up_meanwhile(
    tmp_path: Path, small_disk: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(hub, "acme/tiny", tmp_path / "source")
    hub.may_send.clear()
    changes = {"models_dir": small_disk, "hub_timeout_s": 60, "min_free_disk_bytes": 0}
    async with pulling(hub, tmp_path / "base", monkeypatch, **changes) as here:
        job_id = (await pull(here, "acme/tiny"))["job_id"]
        await eventually(lambda: here.get("/jobs/stats"), lambda stats: hub.at_once == 1)
        filler = small_disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb") as stream:
            while True:
                stream.write(bytes(1024 * 1024))
        hub.may_send.set()
        job = await ended(here, job_id)
        assert job["status"] == "failed"
        assert f"{WEIGHTS} cannot be written: No space left on device" in job["error"]
        filler.unlink()
        await here.post(f"/jobs/{job_id}/retry")
        assert (await eventually(lambda: here.get(f"/jobs/{job_id}"), lambda job: job["status"] == "done"))[
            "local_path"
        ]


async def test_a_pull_pauses_before_the_disk_is_full(
    tmp_path: Path, small_disk: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(hub, "acme/tiny", tmp_path / "source")
    hub.may_send.clear()
    changes = {"models_dir": small_disk, "hub_timeout_s": 60, "min_free_disk_bytes": 20_000_000}
    async with pulling(hub, tmp_path / "base", monkeypatch, **changes) as here:
        job_id = (await pull(here, "acme/tiny"))["job_id"]
        await eventually(lambda: here.get("/jobs/stats"), lambda stats: hub.at_once == 1)
        filler = small_disk / "filler"
        filler.write_bytes(bytes(65_000_000))
        paused = await here.job(job_id, "pending")
        assert f"space on the disk of {small_disk}" in paused["waiting_for"]
        hub.may_send.set()
        filler.unlink()
        assert (await here.job(job_id, "done"))["local_path"]
