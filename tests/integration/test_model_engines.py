"""What a model's engine is started with: checked when it is registered, and part of what the model is."""

from pathlib import Path
from typing import Any

from control.models.model_engine import engine_digest, engine_signature
from stepserve.contract import EngineOverrides, Signature
from tests.integration.control_plane import ControlPlane, control, control_plane, settings_of
from tests.integration.fake_gateway import FakeGateway
from tests.unit.control.checkpoint_files import write_checkpoint

TWO_RANKS = {"args": {"tensor_parallel_size": 2}}
EIGHT_BITS = {"args": {"quantization": "fp8_per_channel"}}


async def register(here: ControlPlane, **body: Any) -> Any:
    return await here.post("/models/register", **({"id": "a", "source": "t"} | body))


async def entry(here: ControlPlane) -> Any:
    return next(model for model in (await here.get("/models"))["models"] if model["id"] == "a")


async def test_vllm_is_asked_and_its_refusal_passed_on(tmp_path: Path) -> None:

    async with control_plane(tmp_path) as here:
        write_checkpoint(here.layout.models / "a")
        here.gateway.refuse_engines_with = "engine.args.tensor_parallel_size: invalid int value: 'two'"
        said = await here.refused(
            422, "/models/register", id="a", source="t", engine={"args": {"tensor_parallel_size": "two"}}
        )
        assert said == "engine: args.tensor_parallel_size: invalid int value: 'two'"
        assert (await here.get("/models"))["models"] == []
        here.gateway.refuse_engines_with = None
        await register(here, engine=TWO_RANKS)
        assert (await entry(here))["engine"] == TWO_RANKS
        asked = here.gateway.engines_checked[-1]
        assert (asked.path, asked.engine.args) == (str(here.layout.models / "a"), {"tensor_parallel_size": 2})


async def test_what_is_stepserves_or_the_operators_is_refused_without_vllm(tmp_path: Path) -> None:

    async with control_plane(tmp_path) as here:
        write_checkpoint(here.layout.models / "a")
        for args, words in (
            ({"worker_extension_cls": "a.B"}, "worker_extension_cls cannot be given"),
            ({"load_format": "pt"}, "load_format cannot be given with a model"),
        ):
            said = await here.refused(422, "/models/register", id="a", source="t", engine={"args": args})
            assert said.startswith("engine.args: ")
            assert words in said
            assert words in await here.refused(422, "/pull", model="acme/tiny", engine={"args": args})
        assert here.gateway.engines_checked == []


async def test_a_model_is_bound_to_cards_that_the_gateway_knows(tmp_path: Path) -> None:
    async with control_plane(tmp_path) as here:
        write_checkpoint(here.layout.models / "a")
        said = await here.refused(422, "/models/register", id="a", source="t", engine={"devices": ["first"]})
        assert "engine.devices" in said
        assert here.gateway.engines_checked == []
        here.gateway.refuse_engines_with = "engine.devices: there is no card 7 here, but 0"
        said = await here.refused(422, "/models/register", id="a", source="t", engine={"devices": ["7"]})
        assert said == "engine: devices: there is no card 7 here, but 0"
        assert said == await here.refused(422, "/pull", model="acme/tiny", engine={"devices": ["7"]})
        here.gateway.refuse_engines_with = None
        await register(here, engine={"devices": ["0"]})
        assert (await entry(here))["engine"] == {"devices": ["0"]}


async def test_while_the_gateway_is_away_the_check_is_left_for_the_load(tmp_path: Path) -> None:

    gateway = FakeGateway(settings_of(tmp_path).layout.gateway_socket)
    async with control(tmp_path, gateway) as here:
        write_checkpoint(here.layout.models / "a")
        body = await register(here, engine=TWO_RANKS)
        assert body["warnings"][-1] == "engine: the gateway is away, so vLLM looks at it when the model is loaded"
        assert (await entry(here))["engine"] == TWO_RANKS


async def test_other_bits_are_another_model(tmp_path: Path) -> None:
    """Their answers differ, so a digest that was measured is never taken for the other."""
    async with control_plane(tmp_path) as here:
        write_checkpoint(here.layout.models / "a")
        plain = (await register(here))["digest"]
        assert "other content" in await here.refused(409, "/models/register", id="a", source="t", engine=EIGHT_BITS)
        changed = await register(here, engine=EIGHT_BITS, replace=True)
        assert changed["digest"] != plain
        again = await register(here)
        assert (again["existing"], again["digest"]) == (True, changed["digest"]), "no engine named: it has its own"
        await here.post("/models/set_active", id="a")
        assert here.gateway.active is not None
        assert here.gateway.active.engine == EngineOverrides.model_validate(EIGHT_BITS)


async def test_new_content_under_an_id_keeps_the_models_engine(tmp_path: Path) -> None:

    async with control_plane(tmp_path) as here:
        write_checkpoint(here.layout.models / "a")
        await register(here, engine=TWO_RANKS)
        write_checkpoint(here.layout.models / "b", seed=1)
        await register(here, path="models/b", replace=True)
        assert (await entry(here))["engine"] == TWO_RANKS
        await register(here, path="models/b", engine={})
        assert (await entry(here))["engine"] is None


def test_no_switch_in_place_crosses_another_engine() -> None:
    signature = Signature(architecture="A", config_sha="c", tokenizer_sha="t", tensors_sha="w", weights_bytes=1)
    plain, two, bits = (
        engine_signature(signature, engine)
        for engine in (None, EngineOverrides.model_validate(TWO_RANKS), EngineOverrides.model_validate(EIGHT_BITS))
    )
    assert plain == signature
    assert len({each.config_sha for each in (plain, two, bits)}) == 3
    assert engine_digest("sha256:1", EngineOverrides.model_validate(TWO_RANKS)) == "sha256:1", "the same answers"
