"""What a switch in place makes ready beforehand, and who is answered meanwhile."""

import asyncio

from stepserve.contract import ActivateRequest, InFlightPolicy
from tests.eventually import eventually
from tests.unit.gateway.fakes import FakeEngine, model, reference, signature
from tests.unit.gateway.pool_harness import PoolHarness, scenario

A, B = model("a", signature()), model("b", signature())


async def staging(
    harness: PoolHarness, in_flight: InFlightPolicy = "finish"
) -> tuple[FakeEngine, "asyncio.Task[object]"]:
    """A switch from A to B that is still being made ready."""
    await harness.pool.activate(ActivateRequest(model=A))
    engine = harness.starter.started[0]
    engine.may_stage.clear()
    asked = ActivateRequest(model=B, in_flight=in_flight)
    switching: asyncio.Task[object] = asyncio.create_task(harness.pool.activate(asked))
    await engine.staging.wait()
    return engine, switching


@scenario
async def test_requests_are_answered_while_the_next_model_is_made_ready(harness: PoolHarness) -> None:
    engine, switching = await staging(harness)
    assert await harness.ask() == b"a:"
    assert harness.pool.snapshot().switching_to == "b"
    engine.may_stage.set()
    await switching
    assert engine.taken_over
    assert await harness.ask() == b"b:"


@scenario
async def test_who_came_meanwhile_is_counted_and_finishes_first(harness: PoolHarness) -> None:
    engine, switching = await staging(harness)
    engine.release.clear()
    inside = asyncio.create_task(harness.ask())
    await engine.entered.wait()
    engine.may_stage.set()
    await eventually(lambda: harness.gate.slot is None)
    assert engine.reloads == 0
    engine.release.set()
    assert await inside == b"a:"
    result = await switching
    assert getattr(result, "in_flight", None) == 1


@scenario
async def test_what_cannot_be_made_ready_is_read_later(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=A))
    engine = harness.starter.started[0]
    engine.cannot_stage = "there is no memory for it"
    result = await harness.pool.activate(ActivateRequest(model=B, reference=reference("b")))
    assert (result.status, result.method) == ("activated", "in_place")
    assert not engine.taken_over
    assert await harness.ask() == b"b:"


@scenario
async def test_a_drain_that_does_not_end_keeps_nothing_ready(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=A))
    engine = harness.starter.started[0]
    engine.release.clear()
    inside = asyncio.create_task(harness.ask())
    await engine.entered.wait()
    result = await harness.pool.activate(ActivateRequest(model=B, timeout_s=0.01))
    assert (result.status, result.rolled_back_to) == ("failed", "a")
    assert engine.staged is None
    engine.release.set()
    assert await inside == b"a:"


@scenario
async def test_an_engine_that_dies_meanwhile_is_started_again_with_what_served(harness: PoolHarness) -> None:
    engine, switching = await staging(harness)
    engine.dead = True
    engine.may_stage.set()
    result = await switching
    assert getattr(result, "rolled_back_to", None) == "a"
    assert len(harness.starter.started) == 2
    assert await harness.ask() == b"a:"


@scenario
async def test_an_engine_that_hangs_meanwhile_is_not_waited_for(harness: PoolHarness) -> None:
    """The watchdog takes it for dead; what was asked of its workers is never answered."""
    await staging_hangs(harness, "finish")


@scenario
async def test_an_engine_that_hangs_meanwhile_is_not_asked_to_keep_requests(harness: PoolHarness) -> None:
    await staging_hangs(harness, "keep")


async def staging_hangs(harness: PoolHarness, in_flight: InFlightPolicy) -> None:
    engine, switching = await staging(harness, in_flight)
    slot = harness.pool.loaded.active
    assert slot is not None
    slot.condemn()
    await switching
    assert not engine.frozen
    assert engine.stopped
    assert await harness.ask() == b"a:"
    assert len(harness.starter.started) == 2


@scenario
async def test_a_defect_in_it_costs_the_time_and_not_the_switch(harness: PoolHarness) -> None:
    engine, switching = await staging(harness)
    engine.stage_defect = ZeroDivisionError("nobody thought of this")
    engine.may_stage.set()
    result = await switching
    assert getattr(result, "status", None) == "activated"
    assert not engine.taken_over
