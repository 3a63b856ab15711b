"""Registering and removing at the same moment, by many, and by a control that is killed in the middle of it."""

import asyncio
import shutil
from collections import Counter
from pathlib import Path

import httpx
import pytest

from control.models.placed_folders import PLACING
from stepserve.settings import EngineSettings
from tests.integration.adapter_files import write_adapter, write_base
from tests.integration.control_plane import ControlPlane, control, control_plane, settings_of
from tests.integration.fake_gateway import FakeGateway
from tests.integration.killable_control import KillableControl
from tests.unit.control.checkpoint_files import write_checkpoint

MOMENTS_MS = [2, 10, 30]


@pytest.mark.usefixtures("each_database")
async def test_one_id_registered_and_removed_by_many_at_once(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a")
        write_checkpoint(here.layout.models / "latest", seed=1)

        async def one(number: int) -> int:
            if number % 2:
                answer = await here.http.delete("/models/latest", params={"files": "true"})
            else:
                answer = await here.http.post("/models/register", json={"id": "latest", "source": "t"})
            return answer.status_code

        statuses = Counter(await asyncio.gather(*map(one, range(40))))
        assert set(statuses) <= {200, 404, 409}, statuses
        await _is_consistent(here)
        await here.post("/models/register", id="latest", source="t")
        await here.post("/models/set_active", id="latest")


async def test_other_content_for_one_id_from_many_at_once(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a")
        for seed in range(8):
            write_checkpoint(here.layout.models / f"run-{seed}", seed=seed + 1)

        async def one(seed: int) -> int:
            body = {"id": "best", "source": "t", "path": f"models/run-{seed}", "replace": True}
            return (await here.http.post("/models/register", json=body)).status_code

        statuses = Counter(await asyncio.gather(*map(one, [*range(8)] * 3)))
        assert set(statuses) <= {200, 409}, statuses
        assert all((here.layout.models / f"run-{seed}" / "config.json").exists() for seed in range(8))
        await here.post("/models/set_active", id="best")


@pytest.mark.parametrize("what", ["switch", "job", "adapter"])
async def test_a_model_that_is_taken_into_use_while_it_is_removed(tmp_path: Path, what: str) -> None:
    """One of the two wins: the model is gone and the other is refused, or it is in use and stays."""

    async def _use(here: ControlPlane, what: str, model_id: str) -> httpx.Response:
        if what == "switch":
            return await here.http.post("/models/set_active", json={"id": model_id})
        if what == "job":
            return await here.http.post("/echo/jobs", json={"model_id": model_id})
        body = {"id": f"on-{model_id}", "source": "t", "base_model": model_id}
        return await here.http.post("/models/register", json=body)

    async with control_plane(tmp_path, engine=EngineSettings(max_loras=2)) as here:
        await here.add_active("a")
        here.kind.may_go.clear()
        for number in range(8):
            model_id = f"m{number}"
            write_base(here, model_id)
            await here.post("/models/register", id=model_id, source="t")
            write_adapter(here.layout.models / f"on-{model_id}")
            using = asyncio.create_task(_use(here, what, model_id))
            await asyncio.sleep(number / 500)
            removing = await here.http.delete(f"/models/{model_id}")
            used = await using
            models = {model["id"]: model for model in (await here.get("/models"))["models"]}
            assert (removing.status_code, model_id in models) in {(200, False), (409, True)}
            if removing.status_code == 409:
                assert used.status_code in {200, 202}, used.text
            elif what != "switch":  # one that was over before the removal is no use any more
                assert used.status_code in {404, 422}, used.text
            assert {model["base_model"] for model in models.values()} <= {None, *models}
            assert used.status_code != 500, used.text
            if what == "switch":
                await here.post("/models/set_active", id="a")
        here.kind.may_go.set()


async def test_control_killed_while_it_removes_or_replaces(tmp_path: Path) -> None:
    """Whatever the moment: what is registered is whole, what is not has no files left, the inbox is as it was."""
    gateway = FakeGateway(settings_of(tmp_path).layout.gateway_socket)
    inbox = tmp_path / "models" / "latest"
    async with gateway.running():
        async with control(tmp_path, gateway) as here:
            await here.add_active("a")
        write_checkpoint(inbox, seed=1)
        for round_, moment_ms in enumerate(MOMENTS_MS):
            for method, path in (("POST", "/models/register"), ("DELETE", "/models/latest?files=true")):
                (inbox / "tokenizer.json").write_text(f'{{"round": {round_}}}')
                kept = sorted(path.name for path in inbox.iterdir())
                doomed = KillableControl(tmp_path)
                await doomed.start()
                body = {"id": "latest", "source": "t"} if method == "POST" else {}
                asked = asyncio.create_task(doomed.ask(method, path, **body))
                await asyncio.sleep(moment_ms / 1000)
                doomed.kill()
                await asked
                await doomed.gone()
                async with control(tmp_path, gateway) as here:
                    await _is_consistent(here, orphans=method == "POST")
                    assert sorted(path.name for path in inbox.iterdir()) == kept
                    await here.post("/models/register", id="latest", source="t")
                    await _is_consistent(here)


async def _is_consistent(here: ControlPlane, *, orphans: bool = False) -> None:
    """The copy of `latest` is there and whole just when it is registered; `orphans`: or ready for the next try."""
    models = {model["id"]: model for model in (await here.get("/models"))["models"]}
    copies = {str(path) for path in here.layout.models.glob("latest@*")}
    registered = {models["latest"]["path"]} if "latest" in models else set()
    assert registered <= copies
    assert orphans or copies == registered
    assert not (here.layout.models / PLACING).exists()
    if registered:
        body = {"id": "latest", "source": "t", "path": registered.pop(), "dry_run": True}
        again = (await here.http.post("/models/register", json=body)).json()
        assert again.get("existing") is True, again


async def test_a_folder_that_goes_while_it_is_registered_is_no_model(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        folder = write_checkpoint(here.layout.models / "m")
        shutil.rmtree(folder)
        assert "does not exist" in await here.refused(422, "/models/register", id="m", source="t")
        assert (await here.get("/models"))["models"] == []


async def test_unfinished_copies_from_before_the_projects_name_changed_go(tmp_path: Path) -> None:
    left = tmp_path / "models" / ".switchyard-placing" / "latest"
    left.mkdir(parents=True)
    async with control_plane(tmp_path):
        assert not left.parent.exists()
