"""Adapters on the slot of their base: made active, replaced, put back, and gone with their slot."""

import pytest

from gateway.errors import CanaryRunning, NoRoom
from stepserve.contract import ActivateRequest, ModelRef
from tests.eventually import eventually
from tests.unit.gateway.fakes import model, signature
from tests.unit.gateway.pool_house import House, scenario

BASE = model("base", signature())
OTHER = model("other", signature())


def adapter(version: str = "1", base: ModelRef = BASE, name: str = "tuned") -> ModelRef:
    return ModelRef(id=name, path=f"/models/{name}", digest=f"sha256:{name}{version}", base=base)


async def activate(house: House, wanted: ModelRef) -> tuple[str, str, str | None]:
    result = await house.pool.activate(ActivateRequest(model=wanted))
    return result.status, result.method, result.rolled_back_to


@scenario
async def test_an_adapter_takes_over_on_the_running_engine_and_gives_back(house: House) -> None:
    await activate(house, BASE)
    assert await activate(house, adapter()) == ("activated", "adapter", None)
    assert await house.ask() == b"sha256:tuned1:"
    (engine,) = house.garage.started
    states = {state.model.id: state.active for state in house.pool.snapshot().slots}
    assert states == {"base": False, "tuned": True}
    assert await activate(house, BASE) == ("activated", "adapter", None)
    assert await house.ask() == b"base:"
    assert house.garage.started == [engine]
    assert engine.reloads == 0


@scenario
async def test_its_base_is_switched_to_first(house: House) -> None:
    await activate(house, OTHER)
    assert await activate(house, adapter()) == ("activated", "in_place", None)
    assert await house.ask() == b"sha256:tuned1:"
    assert await activate(house, OTHER) == ("activated", "in_place", None)
    assert await house.ask() == b"other:"


@scenario
async def test_a_new_version_takes_the_place_of_the_old_one(house: House) -> None:
    await activate(house, BASE)
    await activate(house, adapter("1"))
    await activate(house, adapter("2"))
    assert await house.ask() == b"sha256:tuned2:"
    assert house.garage.started[0].attached == ["sha256:tuned2"]


@scenario
async def test_one_that_fails_leaves_what_was_there(house: House) -> None:
    await activate(house, BASE)
    house.garage.started[0].cannot_take.add("tuned")
    assert await activate(house, adapter()) == ("failed", "adapter", "base")
    assert await house.ask() == b"base:"
    assert house.garage.started[0].attached == []
    await activate(house, OTHER)
    assert (await activate(house, adapter()))[0::2] == ("failed", "other")
    assert await house.ask() == b"other:"


@scenario
async def test_a_switch_that_fails_goes_back_to_the_adapter(house: House) -> None:
    await activate(house, BASE)
    await activate(house, adapter())
    house.garage.started[0].cannot_take.add("other")
    status, _, back_to = await activate(house, OTHER)
    assert (status, back_to) == ("failed", "tuned")
    assert await house.ask() == b"sha256:tuned1:"


@scenario
async def test_a_dead_engine_comes_back_with_its_adapter(house: House) -> None:
    await activate(house, BASE)
    await activate(house, adapter())
    house.garage.started[0].dead = True
    await eventually(
        lambda: len(house.garage.started) == 2 and house.gate.slot is not None and not house.gate.slot.dead
    )
    assert await house.ask() == b"sha256:tuned1:"


@scenario
async def test_beside_the_active_one_the_oldest_leaves(house: House) -> None:
    await activate(house, BASE)
    for name in "abc":
        await house.load(adapter(name=name))
    assert house.garage.started[0].attached == ["sha256:b1", "sha256:c1"]
    await house.pool.unload("b")
    assert {state.model.id for state in house.pool.snapshot().slots} == {"base", "c"}


@scenario
async def test_a_canarys_candidate_is_not_the_oldest_that_leaves(house: House) -> None:
    await activate(house, BASE)
    house.tried = lambda: adapter(name="a")
    for name in "abc":
        await house.load(adapter(name=name))
    assert house.garage.started[0].attached == ["sha256:a1", "sha256:c1"]
    with pytest.raises(CanaryRunning):
        await house.pool.unload("a")


@scenario
async def test_one_that_fails_on_a_base_that_was_loaded_for_it_leaves_what_was_there(house: House) -> None:
    house.free_bytes = 10_000
    far = model("far", signature(architecture="LlamaForCausalLM"))
    await activate(house, BASE)
    house.garage.unfit.add("tuned")
    assert await activate(house, adapter(base=far)) == ("failed", "blue_green", "base")
    assert await house.ask() == b"base:"
    assert [engine.stopped for engine in house.garage.started] == [False, True]


@scenario
async def test_other_content_does_not_take_the_active_adapters_place(house: House) -> None:
    await activate(house, BASE)
    await activate(house, adapter("1"))
    with pytest.raises(NoRoom, match="only a switch"):
        await house.load(adapter("2"))
    assert await house.ask() == b"sha256:tuned1:"
    assert house.garage.started[0].attached == ["sha256:tuned1"]
