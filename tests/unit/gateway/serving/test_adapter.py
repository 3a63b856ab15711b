"""Adapters on the slot of their base: made active, replaced, put back, and gone with their slot."""

import pytest

from gateway.errors import CanaryRunning, NoRoom
from stepserve.contract import ActivateRequest, ModelRef
from tests.eventually import eventually
from tests.unit.gateway.fakes import model, signature
from tests.unit.gateway.pool_harness import PoolHarness, scenario

BASE = model("base", signature())
OTHER = model("other", signature())


def adapter(version: str = "1", base: ModelRef = BASE, name: str = "tuned") -> ModelRef:
    return ModelRef(id=name, path=f"/models/{name}", digest=f"sha256:{name}{version}", base=base)


async def activate(harness: PoolHarness, wanted: ModelRef) -> tuple[str, str, str | None]:
    result = await harness.pool.activate(ActivateRequest(model=wanted))
    return result.status, result.method, result.rolled_back_to


@scenario
async def test_an_adapter_takes_over_on_the_running_engine_and_gives_back(harness: PoolHarness) -> None:
    await activate(harness, BASE)
    assert await activate(harness, adapter()) == ("activated", "adapter", None)
    assert await harness.ask() == b"sha256:tuned1:"
    (engine,) = harness.starter.started
    states = {state.model.id: state.active for state in harness.pool.snapshot().slots}
    assert states == {"base": False, "tuned": True}
    assert await activate(harness, BASE) == ("activated", "adapter", None)
    assert await harness.ask() == b"base:"
    assert harness.starter.started == [engine]
    assert engine.reloads == 0


@scenario
async def test_its_base_is_switched_to_first(harness: PoolHarness) -> None:
    await activate(harness, OTHER)
    assert await activate(harness, adapter()) == ("activated", "in_place", None)
    assert await harness.ask() == b"sha256:tuned1:"
    assert await activate(harness, OTHER) == ("activated", "in_place", None)
    assert await harness.ask() == b"other:"


@scenario
async def test_a_new_version_takes_the_place_of_the_old_one(harness: PoolHarness) -> None:
    await activate(harness, BASE)
    await activate(harness, adapter("1"))
    await activate(harness, adapter("2"))
    assert await harness.ask() == b"sha256:tuned2:"
    assert harness.starter.started[0].attached == ["sha256:tuned2"]


@scenario
async def test_one_that_fails_leaves_what_was_there(harness: PoolHarness) -> None:
    await activate(harness, BASE)
    harness.starter.started[0].cannot_take.add("tuned")
    assert await activate(harness, adapter()) == ("failed", "adapter", "base")
    assert await harness.ask() == b"base:"
    assert harness.starter.started[0].attached == []
    await activate(harness, OTHER)
    assert (await activate(harness, adapter()))[0::2] == ("failed", "other")
    assert await harness.ask() == b"other:"


@scenario
async def test_a_switch_that_fails_goes_back_to_the_adapter(harness: PoolHarness) -> None:
    await activate(harness, BASE)
    await activate(harness, adapter())
    harness.starter.started[0].cannot_take.add("other")
    status, _, back_to = await activate(harness, OTHER)
    assert (status, back_to) == ("failed", "tuned")
    assert await harness.ask() == b"sha256:tuned1:"


@scenario
async def test_a_dead_engine_comes_back_with_its_adapter(harness: PoolHarness) -> None:
    await activate(harness, BASE)
    await activate(harness, adapter())
    harness.starter.started[0].dead = True
    await eventually(
        lambda: len(harness.starter.started) == 2 and harness.gate.slot is not None and not harness.gate.slot.dead
    )
    assert await harness.ask() == b"sha256:tuned1:"


@scenario
async def test_beside_the_active_one_the_oldest_leaves(harness: PoolHarness) -> None:
    await activate(harness, BASE)
    for name in "abc":
        await harness.load(adapter(name=name))
    assert harness.starter.started[0].attached == ["sha256:b1", "sha256:c1"]
    await harness.pool.unload("b")
    assert {state.model.id for state in harness.pool.snapshot().slots} == {"base", "c"}


@scenario
async def test_a_canarys_candidate_is_not_the_oldest_that_leaves(harness: PoolHarness) -> None:
    await activate(harness, BASE)
    harness.tried = lambda: adapter(name="a")
    for name in "abc":
        await harness.load(adapter(name=name))
    assert harness.starter.started[0].attached == ["sha256:a1", "sha256:c1"]
    with pytest.raises(CanaryRunning):
        await harness.pool.unload("a")


@scenario
async def test_one_that_fails_on_a_base_that_was_loaded_for_it_leaves_what_was_there(harness: PoolHarness) -> None:
    harness.free_bytes = 10_000
    far = model("far", signature(architecture="LlamaForCausalLM"))
    await activate(harness, BASE)
    harness.starter.unfit.add("tuned")
    assert await activate(harness, adapter(base=far)) == ("failed", "blue_green", "base")
    assert await harness.ask() == b"base:"
    assert [engine.stopped for engine in harness.starter.started] == [False, True]


@scenario
async def test_other_content_does_not_take_the_active_adapters_place(harness: PoolHarness) -> None:
    await activate(harness, BASE)
    await activate(harness, adapter("1"))
    with pytest.raises(NoRoom, match="only a switch"):
        await harness.load(adapter("2"))
    assert await harness.ask() == b"sha256:tuned1:"
    assert harness.starter.started[0].attached == ["sha256:tuned1"]
