"""Registering, listing and removing models over HTTP."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.control_plane import ControlPlane, control_plane
from tests.integration.long_lived import LongLived, long_lived
from tests.unit.control.checkpoint_files import write_checkpoint


async def test_register_and_list(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        write_checkpoint(here.layout.models / "a", seed=0)
        first = await here.post("/models/register", id="a", source="4090", tags="x,y", step=7)
        assert first.keys() == {"status", "id", "digest", "warnings"}
        assert (first["status"], first["id"]) == ("registered", "a")
        await here.add_active("b", seed=1)
        listed = (await here.get("/models"))["models"]
        assert [model["id"] for model in listed] == ["b", "a"]
        b, a = listed
        assert (b["is_active"], b["loaded"], b["load_duration"]) == (True, True, 1.5)
        assert (a["is_active"], a["loaded"], a["load_duration"]) == (False, False, None)
        assert a["path"] == a["local_path"] == str(here.layout.models / "a")
        assert (a["source"], a["tags"], a["step"], a["quantization"]) == ("4090", ["x", "y"], 7, None)
        assert a["created_at"].endswith("+00:00")
        assert set(a) == {
            "id", "model", "path", "source", "created_at", "tags", "step", "is_active", "loaded", "backend",
            "size_bytes",
            "digest", "architecture", "quantization", "base_model", "engine", "load_duration", "local_path",
            "chat_template", "keep_alive", "warnings",
        }  # fmt: skip


async def test_a_copy_that_landed_inside_the_registered_folder_is_not_called_existing(tmp_path: Path) -> None:
    async with control_plane(tmp_path, moving_ids=["current*"]) as here:
        for model_id in ("a", "current_checkpoint"):
            await here.add_model(model_id, seed=0)
            write_checkpoint(here.layout.models / model_id / "step-1500", seed=1)
            said = await here.refused(422, "/models/register", id=model_id, source="test")
            assert f"{model_id} holds another checkpoint, step-1500/" in said
        await here.post("/models/set_active", id="a")  # what was registered is still whole


async def test_registering_twice_is_harmless_and_other_content_is_refused(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_model("a", seed=0)
        again = await here.post("/models/register", id="a", source="retry")
        assert again["existing"] is True
        shutil.rmtree(here.layout.models / "a")
        write_checkpoint(here.layout.models / "a", seed=1)
        assert "DELETE /models/a" in await here.refused(409, "/models/register", id="a", source="test")
        assert len((await here.get("/models"))["models"]) == 1


@pytest.fixture(scope="module")
def with_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LongLived[ControlPlane]]:
    """Below models/: a whole checkpoint, a torn one, and a link to one that lies elsewhere."""
    base = tmp_path_factory.mktemp("base")
    with long_lived(control_plane(base)) as opened:
        models = opened.here.layout.models
        write_checkpoint(base / "elsewhere")
        (models / "link").symlink_to(base / "elsewhere")
        write_checkpoint(models / "whole")
        file = write_checkpoint(models / "torn") / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-5])
        yield opened


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"id": "ghost", "source": "t"}, "path: the folder "),
        ({"id": "../a", "source": "t"}, "id: "),
        ({"id": "active", "source": "t"}, "id: 'active' is reserved"),
        ({"id": "x", "source": "t", "path": "/etc"}, "path: /etc lies outside"),
        ({"id": "x", "source": "t", "path": "models/../elsewhere"}, "path: "),
        ({"id": "x", "source": "t", "path": "models/link"}, "path: "),
        ({"id": "x", "source": "t", "path": "models"}, "path: "),
        ({"id": "torn", "source": "t"}, "model.safetensors is torn"),
        ({"id": "whole", "source": "t", "engine": {"enforce_eager": True}}, "engine.enforce_eager: unknown field"),
        ({"id": "whole"}, "source: is missing"),
        ({"id": "whole", "source": "t", "tags": [1]}, "tags.0: "),
    ],
)
def test_what_cannot_be_registered_is_said_and_changes_nothing(
    with_folders: LongLived[ControlPlane], body: object, named: str
) -> None:
    async def run() -> None:
        response = await with_folders.here.http.post("/models/register", json=body)
        assert response.status_code == 422
        assert named in response.json()["detail"]
        assert await with_folders.here.get("/models") == {"models": []}

    with_folders.run(run())


async def test_register_and_activate_in_one_request(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        write_checkpoint(here.layout.models / "a")
        body = await here.post("/models/register", id="a", source="t", activate=True)
        assert body["activation"]["status"] == "activated"
        assert (await here.get("/models/active"))["id"] == "a"


async def test_removing(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await here.add_active("a", seed=0)
        await here.add_model("b", seed=1)
        await here.add_model("c", seed=2)
        await here.post("/echo/jobs", model_id="b")
        for model_id, status in (("a", 409), ("b", 409), ("c", 200), ("c", 404)):
            response = await here.http.delete(f"/models/{model_id}", params={"files": "true"})
            assert (model_id, response.status_code) == (model_id, status)
        there = {folder.name for folder in here.layout.models.iterdir()}
        assert there == {"a", "b", "c"}, "a person put it there, and keeps it"


async def test_a_body_that_is_no_json(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        response = await here.http.post("/models/register", content="{", headers={"content-type": "application/json"})
        assert response.status_code == 422
        assert "not valid JSON" in response.json()["detail"]
