"""Where a registered checkpoint may lie: under models/, and in the folders of the setting `model_roots`."""

from pathlib import Path

import pytest

from stepserve.setting_origins import load
from stepserve.setting_sources import SettingsRefused
from tests.integration.control_plane import control_plane
from tests.unit.control.checkpoint_files import write_checkpoint


async def test_a_checkpoint_in_an_allowed_folder_is_a_model(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    async with control_plane(tmp_path / "base", model_roots=[shared]) as here:
        folder = write_checkpoint(shared / "runs" / "a")
        await here.post("/models/register", id="a", source="t", path=str(folder))
        await here.post("/models/set_active", id="a")
        assert here.gateway.asked[-1].model.path == str(folder)
        write_checkpoint(here.layout.models / "b", seed=1)
        await here.post("/models/register", id="b", source="t")
        await here.post("/models/set_active", id="b")
        removed = await here.http.delete("/models/a", params={"files": True})
        assert removed.status_code == 200
        assert (folder / "config.json").is_file(), "what the server did not place is left"


async def test_what_leads_out_of_them_is_refused_and_they_are_named(tmp_path: Path) -> None:
    shared, elsewhere = tmp_path / "shared", tmp_path / "elsewhere"
    async with control_plane(tmp_path / "base", model_roots=[shared]) as here:
        write_checkpoint(elsewhere / "a")
        write_checkpoint(shared / "b")
        (shared / "link").symlink_to(elsewhere / "a")
        leaky = write_checkpoint(shared / "leaky", seed=1)
        (leaky / "model.safetensors").rename(elsewhere / "weights")
        (leaky / "model.safetensors").symlink_to(elsewhere / "weights")
        allowed = f"outside {here.layout.models}, {shared}, where models may lie (setting model_roots)"
        for path in (elsewhere / "a", shared / "link", shared / ".." / "elsewhere" / "a", shared):
            refusal = await here.refused(422, "/models/register", id="x", source="t", path=str(path))
            assert refusal.startswith("path: ")
            assert allowed in refusal
        refusal = await here.refused(422, "/models/register", id="x", source="t", path=str(leaky))
        assert f"path: model.safetensors in {leaky} is a link to {elsewhere / 'weights'}, {allowed}" in refusal
        assert await here.get("/models") == {"models": []}

        (leaky / "model.safetensors").unlink()
        (shared / "weights").write_bytes((elsewhere / "weights").read_bytes())
        (leaky / "model.safetensors").symlink_to(shared / "weights")
        await here.post("/models/register", id="x", source="t", path=str(leaky))


async def test_without_the_setting_the_refusal_says_that_there_is_one(tmp_path: Path) -> None:
    async with control_plane(tmp_path / "base") as here:
        folder = write_checkpoint(tmp_path / "elsewhere")
        refusal = await here.refused(422, "/models/register", id="x", source="t", path=str(folder))
        assert "can be allowed by the setting model_roots" in refusal


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("MODEL_ROOTS", '["runs"]', "runs is not an absolute path"),
        (
            "DEFAULT_CHAT_TEMPLATE",
            "chatmll",
            "no chat template is called 'chatmll'; built in are alpaca, chatml, plain",
        ),
    ],
)
def test_a_setting_that_cannot_be_is_refused_at_start(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"INFERENCE_{name}", value)
    with pytest.raises(SettingsRefused, match=said):
        load()
