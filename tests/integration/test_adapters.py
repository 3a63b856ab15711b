"""Registering LoRA adapters: what fits its base, and what does not."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stepserve.settings import EngineSettings
from tests.integration.adapter_files import write_adapter, write_base
from tests.integration.control_plane import ControlPlane, control_plane
from tests.integration.long_lived import LongLived, long_lived

ENGINE = EngineSettings(max_loras=2)


async def test_an_adapter_is_a_model_with_a_base(tmp_path: Path) -> None:
    async with control_plane(tmp_path, engine=ENGINE) as here:
        write_base(here)
        base = await here.post("/models/register", id="base", source="t")
        write_adapter(here.layout.models / "tuned")
        tuned = await here.post("/models/register", id="tuned", source="t", step=7)
        assert tuned["digest"] != base["digest"]
        shown = {model["id"]: model for model in (await here.get("/models"))["models"]}
        assert (shown["tuned"]["base_model"], shown["base"]["base_model"]) == ("base", None)
        assert shown["tuned"]["architecture"] == shown["base"]["architecture"]
        await here.post("/models/set_active", id="tuned")
        asked = here.gateway.asked[-1].model
        assert asked.base is not None
        assert (asked.id, asked.base.id, asked.base.digest) == ("tuned", "base", base["digest"])
        assert (await here.http.delete("/models/base")).status_code == 409
        (here.layout.models / "base" / "tokenizer.json").write_text('{"other": 1}')
        assert "base" in await here.refused(422, "/models/set_active", id="tuned")


@pytest.fixture(scope="module")
def with_base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LongLived[ControlPlane]]:
    async def register(here: ControlPlane) -> None:
        await here.post("/models/register", id="base", source="t")

    with long_lived(control_plane(tmp_path_factory.mktemp("base"), engine=ENGINE)) as opened:
        write_base(opened.here)
        opened.run(register(opened.here))
        yield opened


@pytest.mark.parametrize(
    ("adapter", "body", "named"),
    [
        ({"rank": 32}, {}, "rank is 32, the engine's limit is 16"),
        ({"shape": (64, 48)}, {}, "it was trained on another base"),
        ({"module": "k_proj"}, {}, "base_model base has no model.layers.0.k_proj"),
        ({"base_model_name_or_path": "acme/else"}, {}, "base_model: the adapter's base is called acme/else"),
        ({}, {"base_model": "nothing"}, "base_model: no model is registered as 'nothing'"),
        ({}, {"quantize": "q8"}, "quantize: an adapter is as its base is"),
        ({"use_dora": True}, {}, "adapter_config.json: use_dora is True"),
        (
            {"prefix": "base_model.model.lm_head"},
            {},
            "adapts lm_head; the embedding and the head are served as the base",
        ),
        ({"prefix": "base_model.model.model.embed_tokens"}, {}, "adapts embed_tokens; the embedding and the head"),
        ({"bias": "all"}, {}, "adapter_config.json: bias is 'all'"),
        ({"peft_type": "IA3"}, {}, "peft_type IA3 is not LORA, all that vLLM can serve: merge it into its base"),
        ({"peft_type": "LOHA"}, {}, "peft_type LOHA is not LORA"),
        ({"peft_type": "PROMPT_TUNING"}, {}, "peft_type PROMPT_TUNING adds virtual tokens"),
        ({"init_lora_weights": "pissa_niter_16"}, {}, "PiSSA changes the base's weights when the training begins"),
        ({"init_lora_weights": "olora"}, {}, "OLoRA changes the base's weights"),
        ({"alora_invocation_tokens": [1, 2]}, {}, "an activated LoRA (aLoRA)"),
        ({"trainable_token_indices": [5]}, {}, "changes rows of the embedding"),
    ],
)
def test_what_does_not_fit_is_said(
    with_base: LongLived[ControlPlane], adapter: dict[str, Any], body: dict[str, Any], named: str
) -> None:
    here = with_base.here
    folder = here.layout.models / "tuned"
    shutil.rmtree(folder, ignore_errors=True)
    write_adapter(folder, **adapter)

    async def run() -> None:
        assert named in await here.refused(422, "/models/register", id="tuned", source="t", **body)
        assert len((await here.get("/models"))["models"]) == 1

    with_base.run(run())


async def test_without_the_setting_an_adapter_is_refused(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        write_base(here)
        await here.post("/models/register", id="base", source="t")
        write_adapter(here.layout.models / "tuned")
        refused = await here.refused(422, "/models/register", id="tuned", source="t")
        assert "INFERENCE_ENGINE__MAX_LORAS" in refused
