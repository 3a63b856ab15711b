"""The server removes what it placed itself and nobody has changed since; everything else is the user's and stays."""

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from control.registration.uploads.uploads import KEPT_S
from stepserve import Client
from stepserve.client.hook import SNAPSHOTS, CheckpointHook
from tests.integration.control_plane import ControlPlane, control_plane, run_sql
from tests.integration.fake_hub import FakeHub
from tests.integration.programs import stepserve
from tests.integration.public_server import PublicServer, public_server
from tests.integration.pulls import add, ended, pull, pulling
from tests.unit.control.checkpoint_files import write_checkpoint

Story = Callable[[ControlPlane], Awaitable[None]]


def run_story(base: Path, story: Story, **changes: Any) -> None:
    async def run() -> None:
        async with control_plane(base, **changes) as here:
            await story(here)

    asyncio.run(run())


def push(base: Path, body: Callable[[PublicServer, Client], None]) -> None:
    """`body` runs in a thread beside the server."""

    async def run() -> None:
        async with public_server(base) as there:
            with Client(there.url, retry_s=0) as client:
                await asyncio.to_thread(body, there, client)

    asyncio.run(run())


def trained(folder: Path, seed: int = 0) -> set[str]:
    """A trainer's folder: a checkpoint, its log and its optimizer; the names of all that is in it."""
    write_checkpoint(folder, seed)
    (folder / "train.log").write_text("three weeks of it")
    (folder / "optimizer.pt").write_bytes(bytes(100))
    (folder / "global_step7").mkdir()
    (folder / "global_step7" / "zero.pt").write_bytes(bytes(100))
    return everything(folder)


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


async def forget(here: ControlPlane, model_id: str, **params: str) -> Any:
    answer = await here.http.delete(f"/models/{model_id}", params={"files": "true", **params})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_replacing_through_a_link_leaves_what_it_led_to(tmp_path: Path) -> None:
    async def story(here: ControlPlane) -> None:
        models = here.layout.models
        kept = {name: trained(models / name, seed) for seed, name in enumerate(("run-a", "run-b"))}
        (models / "best").symlink_to("run-a")
        await here.post("/models/register", id="best", source="t")
        (models / "best").unlink()
        (models / "best").symlink_to("run-b")
        planned = await here.post("/models/register", id="best", source="t", replace=True, dry_run=True)
        assert (planned["status"], planned["removal"]["files"]) == ("dry_run", [])
        replaced = await here.post("/models/register", id="best", source="t", replace=True)
        assert replaced["removal"] == planned["removal"]
        assert replaced["removal"]["left"] == ["."]
        assert f"rm -r -- {models / 'run-a'}" in replaced["removal"]["note"]
        forgotten = await forget(here, "best")
        assert (forgotten["files"], forgotten["removal"]["folder"]) == (False, str(models / "run-b"))
        assert {name: everything(models / name) for name in kept} == kept
        assert (models / "best").is_symlink()

    run_story(tmp_path, story)


@pytest.mark.usefixtures("each_database")
def test_a_moving_ids_copies_go_and_its_inbox_stays(tmp_path: Path) -> None:
    async def story(here: ControlPlane) -> None:
        models = here.layout.models
        inbox = models / "latest"
        kept = trained(inbox)
        await here.post("/models/register", id="latest", source="t")
        (first,) = models.glob("latest@*")
        (inbox / "tokenizer.json").write_text('{"new": 1}')
        planned = await here.post("/models/register", id="latest", source="t", dry_run=True)
        assert planned["removal"]["folder"] == str(first)
        assert set(planned["removal"]["files"]) == {path.name for path in first.iterdir()}
        assert planned["removal"]["left"] == []
        assert list(models.glob("latest@*")) == [first], "nothing was copied"
        assert (await here.get("/models"))["models"][0]["path"] == str(first)
        replaced = await here.post("/models/register", id="latest", source="t")
        assert replaced["removal"] == planned["removal"]
        (second,) = models.glob("latest@*")
        assert second != first
        assert everything(inbox) == kept
        assert (await forget(here, "latest"))["files"] is True
        assert [folder.name for folder in models.iterdir()] == ["latest"]

    run_story(tmp_path, story)


def test_what_a_person_adds_to_or_changes_in_a_placed_folder_stays(tmp_path: Path) -> None:
    def body(there: PublicServer, client: Client) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "precious").write_text("x")
        client.push_checkpoint(write_checkpoint(tmp_path / "source"), "m")
        placed = there.layout.models / "m"
        (placed / "optimizer.pt").write_bytes(bytes(100))
        (placed / "runs").symlink_to(outside)
        (placed / "tokenizer.json").write_text('{"mine": true}')
        planned = client.delete_model("m", files=True, dry_run=True)
        assert planned["status"] == "dry_run"
        assert planned["removal"]["left"] == ["optimizer.pt", "runs", "tokenizer.json"]
        assert "config.json" in planned["removal"]["files"]
        assert (placed / "config.json").exists()
        assert [model.id for model in client.list_models()] == ["m"]
        deleted = client.delete_model("m", files=True)
        assert (deleted["files"], deleted["removal"]) == (False, planned["removal"])
        assert {path.name for path in placed.iterdir()} == {"optimizer.pt", "runs", "tokenizer.json"}
        assert (outside / "precious").read_text() == "x"

    push(tmp_path / "base", body)


def test_a_placed_folder_that_became_a_link_is_not_followed(tmp_path: Path) -> None:
    def body(there: PublicServer, client: Client) -> None:
        client.push_checkpoint(write_checkpoint(tmp_path / "source"), "m")
        placed = there.layout.models / "m"
        placed.rename(there.layout.models / "run-a")
        placed.symlink_to("run-a")
        kept = everything(there.layout.models / "run-a")
        deleted = client.delete_model("m", files=True)
        assert (deleted["files"], deleted["removal"]["left"]) == (False, ["."])
        assert everything(there.layout.models / "run-a") == kept
        assert placed.is_symlink()

    push(tmp_path / "base", body)


def test_uploads_and_pulls_go_whole(tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def body(there: PublicServer, client: Client) -> None:
        pushed = client.push_checkpoint(write_checkpoint(tmp_path / "pushed", shards=2), "m")
        deleted = client.delete_model("m", files=True)
        assert deleted["files"] is True
        assert deleted["removal"]["size_bytes"] == pushed.total_bytes
        assert list(there.layout.models.iterdir()) == []

    push(tmp_path / "base", body)
    add(hub, "acme/tiny", tmp_path / "source")

    async def run() -> None:
        async with pulling(hub, tmp_path / "pulled", monkeypatch) as here:
            job = await ended(here, (await pull(here, "acme/tiny"))["job_id"])
            assert job["status"] == "done", job["error"]
            assert (await forget(here, "acme--tiny"))["files"] is True
            assert [path.name for path in here.layout.models.iterdir() if path.name != ".pulls"] == []

    asyncio.run(run())


def test_a_folder_of_the_last_release_is_left(tmp_path: Path) -> None:
    """What it placed it did not write down, so nothing proves whose it is."""

    async def story(here: ControlPlane) -> None:
        await here.add_model("m")
        await run_sql(tmp_path, "DELETE FROM placed_folders")
        assert (await forget(here, "m"))["files"] is False
        assert (here.layout.models / "m" / "config.json").exists()

    run_story(tmp_path, story)


def test_a_removal_that_was_killed_in_the_middle_is_finished_at_the_next_start(tmp_path: Path) -> None:
    base = tmp_path / "base"

    def first(there: PublicServer, client: Client) -> None:
        for name in ("gone", "kept"):
            client.push_checkpoint(write_checkpoint(tmp_path / name, seed=len(name)), name)

    push(base, first)

    async def interrupt() -> None:
        await run_sql(base, "UPDATE placed_folders SET going = 1")
        await run_sql(base, "DELETE FROM models WHERE id = 'gone'")

    asyncio.run(interrupt())
    (base / "models" / "gone" / "config.json").unlink()  # as far as it came
    (base / "models" / "gone" / "mine.txt").write_text("x")

    async def story(here: ControlPlane) -> None:
        assert everything(here.layout.models / "gone") == {"mine.txt"}
        assert (here.layout.models / "kept" / "config.json").exists(), "a model uses it"
        assert (await forget(here, "kept"))["files"] is True

    run_story(base, story)


async def test_a_trainers_folder_below_checkpoints_is_no_upload(tmp_path: Path) -> None:
    base = tmp_path / "base"
    mine = base / "checkpoints" / "run-a"
    kept = trained(mine)
    (base / "checkpoints" / "linked").symlink_to("run-a")
    (mine / "files").mkdir()
    long_ago = time.time() - 2 * KEPT_S
    for path in (*mine.rglob("*"), mine):
        os.utime(path, (long_ago, long_ago))

    async with public_server(base) as there, httpx.AsyncClient(base_url=there.url, timeout=240) as http:
        assert everything(mine) == kept | {"files"}, "the start has removed what is old"
        for model_id in ("run-a", "linked"):
            put = await http.put(f"/models/{model_id}/files/config.json", content=b"{}")
            begun = {"upload": "u", "files": [{"name": "config.json", "size_bytes": 2}]}
            for answer in (put, await http.post(f"/models/{model_id}/files", json=begun)):
                assert answer.status_code == 409, answer.text
                assert "holds files that no upload wrote" in answer.json()["detail"]
            assert (await http.delete(f"/models/{model_id}/files")).status_code == 404
    assert everything(mine) == kept | {"files"}


async def test_what_lies_beside_an_upload_outlives_it(tmp_path: Path) -> None:
    async with public_server(tmp_path) as there, httpx.AsyncClient(base_url=there.url, timeout=240) as http:
        assert (await http.put("/models/m/files/config.json", content=b"{}")).status_code == 200
        (there.layout.uploads / "m" / "notes.txt").write_text("mine")
        assert (await http.delete("/models/m/files")).status_code == 200
        assert everything(there.layout.uploads / "m") == {"notes.txt"}


def test_two_trainings_in_one_folder_leave_each_others_snapshots(tmp_path: Path) -> None:
    """Snapshots wait for a server that never answers; a training that was killed has left one too."""
    killed = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left = tmp_path / SNAPSHOTS / f"{socket.gethostname()}-{int(killed.stdout)}" / "old"
    left.mkdir(parents=True)
    (left / "config.json").write_text("{}")
    saved = [write_checkpoint(tmp_path / name) for name in ("one", "two")]
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        Client(f"127.0.0.1:{silent.getsockname()[1]}", timeout_s=3.0, retry_s=0.0) as client,
    ):
        hooks = [CheckpointHook(f"run{number}", client=client, retry_s=0.0) for number in range(2)]
        for hook, folder in zip(hooks, saved, strict=True):
            hook.saved(folder, 1)
        assert not left.exists()
        waiting = {path.name.rpartition("-")[0] for path in (tmp_path / SNAPSHOTS).glob("*/*")}
        assert waiting == {"one", "two"}
        for hook in hooks:
            hook.close(timeout_s=0)


def test_the_terminal_says_what_would_go_and_what_stays(tmp_path: Path) -> None:
    def body(there: PublicServer, client: Client) -> None:
        client.push_checkpoint(write_checkpoint(tmp_path / "source"), "m")
        mine = there.layout.models / "m" / "optimizer.pt"
        mine.write_bytes(b"x")
        asked = ("models", "rm", "m", "--files", "--host", there.url)
        planned = stepserve(tmp_path, *asked, "--dry-run")
        assert planned.returncode == 0, planned.stderr
        assert planned.stdout.startswith("m would be removed.\n")
        assert "files" in planned.stdout
        assert f"rm -r -- {mine.parent}" in planned.stdout
        assert [model.id for model in client.list_models()] == ["m"]
        removed = stepserve(tmp_path, *asked)
        assert removed.stdout.startswith("m is removed.\n"), removed.stderr
        assert [path.name for path in mine.parent.iterdir()] == ["optimizer.pt"]

    push(tmp_path / "base", body)
