"""Pauses of the active model: what they claim, what ends them, and what of everything else goes on meanwhile."""

import asyncio

import pytest

from gateway.errors import DrainFailed, ModelPaused, PushInProgress, SwitchInProgress
from gateway.serving.pauses import PauseRequest
from gateway.serving.slot import Slot
from stepserve.contract import ActivateRequest, InFlightPolicy
from tests.eventually import eventually
from tests.unit.gateway.fakes import FakeEngine, model, signature
from tests.unit.gateway.pool_house import House, scenario
from tests.unit.gateway.test_pushes import push_of, pushed

A, B = model("a", signature()), model("b", signature())
OTHER = model("other", signature(tensors_sha="x"))


def pause_of(
    house: House, in_flight: InFlightPolicy = "finish", *, limit_s: float = 60.0, timeout_s: float = 60.0
) -> PauseRequest:
    slot = house.pool.loaded.active
    assert isinstance(slot, Slot)
    return PauseRequest(slot, in_flight, limit_s, timeout_s)


async def started(house: House) -> FakeEngine:
    await house.pool.activate(ActivateRequest(model=A))
    return house.garage.started[0]


async def inside(house: House, engine: FakeEngine) -> asyncio.Task[bytes]:
    engine.release.clear()
    asking = asyncio.create_task(house.ask())
    await engine.entered.wait()
    return asking


@scenario
async def test_who_comes_during_a_pause_is_answered_after_it(house: House) -> None:
    await started(house)
    await house.pool.pause(pause_of(house))
    assert house.pool.snapshot().paused
    later = asyncio.create_task(house.ask())
    await eventually(lambda: house.pool.snapshot().held == 1)
    await house.pool.resume()
    assert await later == b"a:"
    assert not house.pool.snapshot().paused
    await house.pool.resume()


@scenario
async def test_a_pause_beside_a_resume_is_never_granted_and_over_at_once(house: House) -> None:
    await started(house)
    await house.pool.pause(pause_of(house))
    resuming, pausing = [
        asyncio.create_task(asked) for asked in (house.pool.resume(), house.pool.pause(pause_of(house)))
    ]
    with pytest.raises(ModelPaused):
        await pausing
    await resuming
    assert not house.pool.is_paused
    assert await house.ask() == b"a:"


@scenario
async def test_a_pause_waits_for_who_is_inside(house: House) -> None:
    engine = await started(house)
    asking = await inside(house, engine)
    pausing = asyncio.create_task(house.pool.pause(pause_of(house)))
    await eventually(lambda: house.gate.slot is None)
    engine.release.set()
    assert await asking == b"a:"
    await pausing
    await house.pool.resume()
    assert await house.ask() == b"a:"


@scenario
async def test_who_does_not_end_in_time_makes_the_pause_fail(house: House) -> None:
    engine = await started(house)
    asking = await inside(house, engine)
    with pytest.raises(DrainFailed):
        await house.pool.pause(pause_of(house, timeout_s=0.01))
    engine.release.set()
    assert await asking == b"a:"
    assert await house.ask() == b"a:"


@scenario
async def test_abort_ends_who_is_inside_also_later(house: House) -> None:
    engine = await started(house)
    asking = await inside(house, engine)
    await house.pool.pause(pause_of(house, "keep"))
    assert (engine.frozen, asking.done()) == (True, False)
    await house.pool.pause(pause_of(house, "abort"))
    assert b"aborted" in await asking
    await house.pool.resume()
    assert not engine.frozen


@scenario
async def test_weights_are_pushed_into_what_is_paused_and_who_is_kept_goes_on_at_its_end(house: House) -> None:
    engine = await started(house)
    asking = await inside(house, engine)
    await house.pool.pause(pause_of(house, "keep"))
    result = await pushed(house, push_of(house))
    assert result.error is None
    assert (engine.weights, engine.frozen, house.gate.slot) == (b"new", True, None)
    assert (await pushed(house, push_of(house, b"NaN", 2))).restored
    assert (engine.weights, engine.frozen, house.gate.slot) == (b"new", True, None)
    await house.pool.resume()
    engine.release.set()
    assert await asking == b"a:"
    assert not engine.frozen


@scenario
async def test_a_resume_waits_for_weights_that_are_being_put_in(house: House) -> None:
    engine = await started(house)
    await house.pool.pause(pause_of(house))
    engine.may_reload.clear()
    pushing = asyncio.create_task(pushed(house, push_of(house)))
    await engine.reloading.wait()
    with pytest.raises(PushInProgress):
        await house.pool.pause(pause_of(house))
    resuming = asyncio.create_task(house.pool.resume())
    await asyncio.sleep(0)
    assert house.gate.slot is None
    engine.may_reload.set()
    assert (await pushing).error is None
    await resuming
    assert await house.ask() == b"a:"


@scenario
async def test_a_pause_that_nobody_ends_is_over_by_itself(house: House) -> None:
    engine = await started(house)
    asking = await inside(house, engine)
    await house.pool.pause(pause_of(house, "keep", limit_s=0.05))
    await eventually(lambda: not house.pool.snapshot().paused)
    engine.release.set()
    assert await asking == b"a:"
    assert not engine.frozen


@scenario
async def test_a_switch_is_refused_meanwhile_and_a_pause_during_a_switch(house: House) -> None:
    engine = await started(house)
    request = pause_of(house)
    await house.pool.pause(request)
    with pytest.raises(ModelPaused, match="`a` is paused"):
        await house.pool.activate(ActivateRequest(model=B))
    await house.pool.resume()
    engine.may_reload.clear()
    switching = asyncio.create_task(house.pool.activate(ActivateRequest(model=B)))
    await engine.reloading.wait()
    with pytest.raises(SwitchInProgress):
        await house.pool.pause(request)
    engine.may_reload.set()
    assert (await switching).status == "activated"


@scenario
async def test_an_engines_death_ends_the_pause(house: House) -> None:
    engine = await started(house)
    await house.pool.pause(pause_of(house, "keep"))
    engine.dead = True
    await eventually(lambda: len(house.garage.started) == 2 and house.pool.serving is not None)
    assert not house.pool.snapshot().paused
    assert await house.ask() == b"a:"


@scenario
async def test_other_models_are_loaded_and_answer_meanwhile(house: House) -> None:
    house.free_bytes = 10_000
    await started(house)
    house.register.models["other"] = OTHER
    await house.pool.pause(pause_of(house))
    await house.load(OTHER)
    assert (await house.enter("other")).model == OTHER


@scenario
async def test_a_cache_is_not_cleared_under_who_is_frozen(house: House) -> None:
    engine = await started(house)
    slot = house.pool.loaded.active
    assert isinstance(slot, Slot)
    await house.pool.pause(pause_of(house, "keep"))
    await slot.cleanse()
    assert (engine.frozen, engine.cleared) == (True, 0)


@scenario
async def test_a_pause_asked_for_again_while_it_begins_is_the_same(house: House) -> None:
    """A trainer whose request broke off while those inside are waited for asks again, and waits with the first."""
    engine = await started(house)
    asking = await inside(house, engine)
    first, again = [asyncio.create_task(house.pool.pause(pause_of(house))) for _ in range(2)]
    await eventually(lambda: house.gate.slot is None)
    engine.release.set()
    assert await asking == b"a:"
    await asyncio.gather(first, again)
    assert house.gate.slot is None
    await house.pool.resume()
    assert await house.ask() == b"a:"


@scenario
async def test_abort_waits_for_nobody_whom_an_earlier_pause_waits_for(house: House) -> None:
    engine = await started(house)
    asking = await inside(house, engine)
    first = asyncio.create_task(house.pool.pause(pause_of(house)))
    await eventually(lambda: house.gate.slot is None)
    await house.pool.pause(pause_of(house, "abort"))
    assert b"aborted" in await asking
    await first
    await house.pool.resume()


@scenario
async def test_who_joined_a_pause_that_does_not_begin_is_told_the_same(house: House) -> None:
    engine = await started(house)
    asking = await inside(house, engine)
    asked = [pause_of(house, timeout_s=0.05), pause_of(house)]
    ends = await asyncio.gather(*(house.pool.pause(each) for each in asked), return_exceptions=True)
    assert [type(end) for end in ends] == [DrainFailed, DrainFailed]
    assert not house.pool.is_paused
    engine.release.set()
    assert await asking == b"a:"
