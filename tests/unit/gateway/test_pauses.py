"""Pauses of the active model: what they claim, what ends them, and what of everything else goes on meanwhile."""

import asyncio

import pytest

from gateway.errors import DrainFailed, ModelPaused, PushInProgress, SwitchInProgress
from gateway.serving.pauses import PauseRequest
from gateway.serving.slot import Slot
from stepserve.contract import ActivateRequest, InFlightPolicy
from tests.eventually import eventually
from tests.unit.gateway.fakes import FakeEngine, model, signature
from tests.unit.gateway.pool_harness import PoolHarness, scenario
from tests.unit.gateway.test_pushes import push_of, pushed

A, B = model("a", signature()), model("b", signature())
OTHER = model("other", signature(tensors_sha="x"))


def pause_of(
    harness: PoolHarness, in_flight: InFlightPolicy = "finish", *, limit_s: float = 60.0, timeout_s: float = 60.0
) -> PauseRequest:
    slot = harness.pool.loaded.active
    assert isinstance(slot, Slot)
    return PauseRequest(slot, in_flight, limit_s, timeout_s)


async def started(harness: PoolHarness) -> FakeEngine:
    await harness.pool.activate(ActivateRequest(model=A))
    return harness.starter.started[0]


async def inside(harness: PoolHarness, engine: FakeEngine) -> asyncio.Task[bytes]:
    engine.release.clear()
    asking = asyncio.create_task(harness.ask())
    await engine.entered.wait()
    return asking


@scenario
async def test_who_comes_during_a_pause_is_answered_after_it(harness: PoolHarness) -> None:
    await started(harness)
    await harness.pool.pause(pause_of(harness))
    assert harness.pool.snapshot().paused
    later = asyncio.create_task(harness.ask())
    await eventually(lambda: harness.pool.snapshot().held == 1)
    await harness.pool.resume()
    assert await later == b"a:"
    assert not harness.pool.snapshot().paused
    await harness.pool.resume()


@scenario
async def test_a_pause_beside_a_resume_is_never_granted_and_over_at_once(harness: PoolHarness) -> None:
    await started(harness)
    await harness.pool.pause(pause_of(harness))
    resuming, pausing = [
        asyncio.create_task(asked) for asked in (harness.pool.resume(), harness.pool.pause(pause_of(harness)))
    ]
    with pytest.raises(ModelPaused):
        await pausing
    await resuming
    assert not harness.pool.is_paused
    assert await harness.ask() == b"a:"


@scenario
async def test_a_pause_waits_for_who_is_inside(harness: PoolHarness) -> None:
    engine = await started(harness)
    asking = await inside(harness, engine)
    pausing = asyncio.create_task(harness.pool.pause(pause_of(harness)))
    await eventually(lambda: harness.gate.slot is None)
    engine.release.set()
    assert await asking == b"a:"
    await pausing
    await harness.pool.resume()
    assert await harness.ask() == b"a:"


@scenario
async def test_who_does_not_end_in_time_makes_the_pause_fail(harness: PoolHarness) -> None:
    engine = await started(harness)
    asking = await inside(harness, engine)
    with pytest.raises(DrainFailed):
        await harness.pool.pause(pause_of(harness, timeout_s=0.01))
    engine.release.set()
    assert await asking == b"a:"
    assert await harness.ask() == b"a:"


@scenario
async def test_abort_ends_who_is_inside_also_later(harness: PoolHarness) -> None:
    engine = await started(harness)
    asking = await inside(harness, engine)
    await harness.pool.pause(pause_of(harness, "keep"))
    assert (engine.frozen, asking.done()) == (True, False)
    await harness.pool.pause(pause_of(harness, "abort"))
    assert b"aborted" in await asking
    await harness.pool.resume()
    assert not engine.frozen


@scenario
async def test_weights_are_pushed_into_what_is_paused_and_who_is_kept_goes_on_at_its_end(harness: PoolHarness) -> None:
    engine = await started(harness)
    asking = await inside(harness, engine)
    await harness.pool.pause(pause_of(harness, "keep"))
    result = await pushed(harness, push_of(harness))
    assert result.error is None
    assert (engine.weights, engine.frozen, harness.gate.slot) == (b"new", True, None)
    assert (await pushed(harness, push_of(harness, b"NaN", 2))).restored
    assert (engine.weights, engine.frozen, harness.gate.slot) == (b"new", True, None)
    await harness.pool.resume()
    engine.release.set()
    assert await asking == b"a:"
    assert not engine.frozen


@scenario
async def test_a_resume_waits_for_weights_that_are_being_put_in(harness: PoolHarness) -> None:
    engine = await started(harness)
    await harness.pool.pause(pause_of(harness))
    engine.may_reload.clear()
    pushing = asyncio.create_task(pushed(harness, push_of(harness)))
    await engine.reloading.wait()
    with pytest.raises(PushInProgress):
        await harness.pool.pause(pause_of(harness))
    resuming = asyncio.create_task(harness.pool.resume())
    await asyncio.sleep(0)
    assert harness.gate.slot is None
    engine.may_reload.set()
    assert (await pushing).error is None
    await resuming
    assert await harness.ask() == b"a:"


@scenario
async def test_a_pause_that_nobody_ends_is_over_by_itself(harness: PoolHarness) -> None:
    engine = await started(harness)
    asking = await inside(harness, engine)
    await harness.pool.pause(pause_of(harness, "keep", limit_s=0.05))
    await eventually(lambda: not harness.pool.snapshot().paused)
    engine.release.set()
    assert await asking == b"a:"
    assert not engine.frozen


@scenario
async def test_a_switch_is_refused_meanwhile_and_a_pause_during_a_switch(harness: PoolHarness) -> None:
    engine = await started(harness)
    request = pause_of(harness)
    await harness.pool.pause(request)
    with pytest.raises(ModelPaused, match="`a` is paused"):
        await harness.pool.activate(ActivateRequest(model=B))
    await harness.pool.resume()
    engine.may_reload.clear()
    switching = asyncio.create_task(harness.pool.activate(ActivateRequest(model=B)))
    await engine.reloading.wait()
    with pytest.raises(SwitchInProgress):
        await harness.pool.pause(request)
    engine.may_reload.set()
    assert (await switching).status == "activated"


@scenario
async def test_an_engines_death_ends_the_pause(harness: PoolHarness) -> None:
    engine = await started(harness)
    await harness.pool.pause(pause_of(harness, "keep"))
    engine.dead = True
    await eventually(lambda: len(harness.starter.started) == 2 and harness.pool.serving is not None)
    assert not harness.pool.snapshot().paused
    assert await harness.ask() == b"a:"


@scenario
async def test_other_models_are_loaded_and_answer_meanwhile(harness: PoolHarness) -> None:
    harness.free_bytes = 10_000
    await started(harness)
    harness.register.models["other"] = OTHER
    await harness.pool.pause(pause_of(harness))
    await harness.load(OTHER)
    assert (await harness.enter("other")).model == OTHER


@scenario
async def test_a_cache_is_not_cleared_under_who_is_frozen(harness: PoolHarness) -> None:
    engine = await started(harness)
    slot = harness.pool.loaded.active
    assert isinstance(slot, Slot)
    await harness.pool.pause(pause_of(harness, "keep"))
    await slot.cleanse()
    assert (engine.frozen, engine.cleared) == (True, 0)


@scenario
async def test_a_pause_asked_for_again_while_it_begins_is_the_same(harness: PoolHarness) -> None:
    """A trainer whose request broke off while those inside are waited for asks again, and waits with the first."""
    engine = await started(harness)
    asking = await inside(harness, engine)
    first, again = [asyncio.create_task(harness.pool.pause(pause_of(harness))) for _ in range(2)]
    await eventually(lambda: harness.gate.slot is None)
    engine.release.set()
    assert await asking == b"a:"
    await asyncio.gather(first, again)
    assert harness.gate.slot is None
    await harness.pool.resume()
    assert await harness.ask() == b"a:"


@scenario
async def test_abort_waits_for_nobody_whom_an_earlier_pause_waits_for(harness: PoolHarness) -> None:
    engine = await started(harness)
    asking = await inside(harness, engine)
    first = asyncio.create_task(harness.pool.pause(pause_of(harness)))
    await eventually(lambda: harness.gate.slot is None)
    await harness.pool.pause(pause_of(harness, "abort"))
    assert b"aborted" in await asking
    await first
    await harness.pool.resume()


@scenario
async def test_who_joined_a_pause_that_does_not_begin_is_told_the_same(harness: PoolHarness) -> None:
    engine = await started(harness)
    asking = await inside(harness, engine)
    asked = [pause_of(harness, timeout_s=0.05), pause_of(harness)]
    ends = await asyncio.gather(*(harness.pool.pause(each) for each in asked), return_exceptions=True)
    assert [type(end) for end in ends] == [DrainFailed, DrainFailed]
    assert not harness.pool.is_paused
    engine.release.set()
    assert await asking == b"a:"
