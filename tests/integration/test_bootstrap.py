"""The first start."""

from pathlib import Path

from tests.eventually import eventually
from tests.integration.control_plane import control, control_plane, settings_of
from tests.integration.fake_gateway import FakeGateway
from tests.unit.control.checkpoint_files import write_checkpoint


async def test_an_empty_base_gets_the_demo(tmp_path: Path) -> None:
    for _ in range(2):
        async with control_plane(tmp_path, install_demo=True) as here:
            await eventually(lambda: here.get("/models"), lambda body: body["models"][0]["loaded"])
            (model,) = (await here.get("/models"))["models"]
            assert (model["id"], model["source"], model["tags"], model["step"]) == (
                "demo-step-1500", "demo", ["demo"], 1500,
            )  # fmt: skip
            assert (await here.get("/models/active"))["id"] == "demo-step-1500"
            dataset = (here.layout.datasets / "math_eval.jsonl").read_text()
            assert len(dataset.splitlines()) >= 500
            assert [folder.name for folder in here.layout.models.iterdir()] == ["demo-step-1500"]
            assert len((await here.get("/models/activations"))["activations"]) == 1


async def test_the_operators_folder_is_served_wherever_it_lies(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "elsewhere" / "my model", seed=3)
    base = tmp_path / "base"
    gateway = FakeGateway(settings_of(base).layout.gateway_socket)
    async with gateway.running(), control(base, gateway, model_path=folder) as here:
        assert (await here.get("/models/active"))["id"] == "my-model"
        await eventually(lambda: here.get("/models"), lambda body: body["models"][0]["loaded"])
    (folder / "tokenizer.json").write_text('{"other": 1}')
    async with gateway.running(), control(base, gateway, model_path=folder) as here:
        assert (await here.get("/models/active"))["id"].startswith("my-model-")
