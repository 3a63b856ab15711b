"""Checkpoints that bring code: Python files, pickles, kernels of a hub. None of it is ever run."""

import asyncio
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from control.checkpoints.checkpoint import inspect
from control.checkpoints.digest_cache import DigestCache
from control.models.reference_maker import ReferenceMaker
from control.models.registry import Registry
from stepserve.settings import EngineSettings
from tests.eventually import eventually
from tests.integration.control_plane import ControlPlane, control_plane
from tests.unit.control.checkpoint_files import CONFIG, write_checkpoint

DEMO = Path(__file__).parents[2] / "demo" / "checkpoints" / "step-1500"
AUTO_MAP = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}


class Touch:
    """Unpickled it makes a file."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._marker,)


def test_what_lies_beside_the_weights_is_never_run(tmp_path: Path) -> None:
    """transformers itself, in the program that makes references, on all the places where it has looked for code."""
    folder, marker = tmp_path / "evil", tmp_path / "marker"
    shutil.copytree(DEMO, folder)
    for name in ("evil.py", "modeling_evil.py", "custom_generate/generate.py", "sitecustomize.py", "transformers.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"import pathlib; pathlib.Path({str(marker)!r}).touch()")
    for name in ("pytorch_model.bin", "model.pt", "training_args.bin", "adapter_model.bin", "tokenizer.pkl"):
        (folder / name).write_bytes(pickle.dumps(Touch(marker)))
    for name, auto_map in (
        ("config.json", AUTO_MAP),
        ("tokenizer_config.json", {"AutoTokenizer": ["evil.E", "evil.E"]}),
    ):
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_bytes()), "auto_map": auto_map, "trust_remote_code": True}))
    cache = DigestCache(tmp_path / "digests.json")
    digest = inspect(folder, cache).digest
    reference = asyncio.run(ReferenceMaker(cache, limit_s=300).compute(folder, digest))
    assert reference.kind == "computed"
    assert not marker.exists()


async def _with_config(here: ControlPlane, model_id: str, **changes: Any) -> None:
    folder = write_checkpoint(here.layout.models / model_id, seed=len(model_id))
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))


async def _knows_the_engine(here: ControlPlane) -> None:
    async def look() -> bool:
        return here.app.state.services[Registry]._abilities.known is not None

    await eventually(look, bool)


@pytest.mark.parametrize("trusting", [False, True])
async def test_a_model_that_needs_its_own_code_is_refused_unless_settings_allow_it(
    trusting: bool, tmp_path: Path
) -> None:
    async with control_plane(tmp_path, engine=EngineSettings(trust_remote_code=trusting)) as here:
        await _knows_the_engine(here)
        await _with_config(here, "own", auto_map=AUTO_MAP, model_type="of-its-own")
        if trusting:
            await here.post("/models/register", id="own", source="t")
        else:
            refusal = await here.refused(422, "/models/register", id="own", source="t")
            assert "auto_map, model_type 'of-its-own'" in refusal
            assert "INFERENCE_ENGINE__TRUST_REMOTE_CODE" in refusal
        await _with_config(here, "known", auto_map=AUTO_MAP)  # the engine's own code is taken for it
        await here.post("/models/register", id="known", source="t")


@pytest.mark.parametrize(
    "config",
    [
        {"attn_implementation": "evil/kernels"},
        {"_attn_implementation": "evil/kernels@main:attention"},
        {"text_config": {"experts_implementation": "evil/kernels"}},
    ],
)
async def test_kernels_of_a_hub_are_refused(config: dict[str, Any], tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        await _with_config(here, "kernels", **config)
        assert "names kernels of a hub" in await here.refused(422, "/models/register", id="kernels", source="t")
