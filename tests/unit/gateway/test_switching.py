"""Switches in place and beside the running engine, as the requests at the gate see them."""

import asyncio

import pytest

from gateway.errors import LoadFailed
from gateway.http.asgi import replay
from stepserve.contract import ActivateRequest, ModelRef
from tests.eventually import eventually
from tests.unit.gateway.fakes import FakeClient, FakeEngine, model, reference, signature
from tests.unit.gateway.pool_harness import PoolHarness, scenario

A, B = model("a", signature()), model("b", signature())
OTHER = model("other", signature(tensors_sha="x"))


@scenario
async def test_in_place_keeps_the_engine_and_changes_its_name(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=A))
    result = await harness.pool.activate(ActivateRequest(model=B, reference=reference("b")))
    assert (result.status, result.method, result.previous) == ("activated", "in_place", "a")
    assert result.proof is not None
    assert result.proof.kind == "reference"
    assert await harness.ask() == b"b:"
    assert len(harness.starter.started) == 1
    assert harness.pool.snapshot().slots[0].model == B


@scenario
async def test_in_place_a_request_inside_finishes_first_and_others_wait(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=A))
    engine = harness.starter.started[0]
    engine.release.clear()
    inside = asyncio.create_task(harness.ask())
    await engine.entered.wait()
    switching = asyncio.create_task(harness.pool.activate(ActivateRequest(model=B)))
    await eventually(lambda: harness.gate.slot is None)
    later = asyncio.create_task(harness.ask())
    await eventually(lambda: harness.pool.snapshot().held == 1)
    assert engine.reloads == 0
    engine.release.set()
    assert await inside == b"a:"
    assert (await switching).in_flight == 1
    assert await later == b"b:"


@scenario
async def test_a_failed_proof_in_place_brings_the_old_tensors_back(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=A, reference=reference("a")))
    result = await harness.pool.activate(ActivateRequest(model=B, reference=reference("somebody else")))
    assert (result.status, result.rolled_back_to) == ("failed", "a")
    assert result.proof is not None
    assert not result.proof.passed
    assert await harness.ask() == b"a:"
    assert len(harness.starter.started) == 1


@scenario
async def test_a_reload_that_tears_brings_the_old_tensors_back(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=A, reference=reference("a")))
    harness.starter.started[0].cannot_take = {"b"}
    result = await harness.pool.activate(ActivateRequest(model=B))
    assert (result.status, result.rolled_back_to) == ("failed", "a")
    assert await harness.ask() == b"a:"
    assert len(harness.starter.started) == 1


@scenario
async def test_when_the_old_tensors_do_not_go_back_either_a_new_engine_has_them(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=A))
    harness.starter.started[0].cannot_take = {"a", "b"}
    result = await harness.pool.activate(ActivateRequest(model=B))
    assert (result.status, result.rolled_back_to) == ("failed", "a")
    assert [engine.stopped for engine in harness.starter.started] == [True, False]
    assert await harness.ask() == b"a:"


@scenario
async def test_an_engine_that_dies_when_it_is_frozen_is_replaced(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=A))
    harness.starter.started[0].dies_when_frozen = True
    result = await harness.pool.activate(ActivateRequest(model=B, in_flight="keep"))
    assert (result.status, result.rolled_back_to) == ("failed", "a")
    assert await harness.ask() == b"a:"
    assert [engine.stopped for engine in harness.starter.started] == [True, False]


@scenario
async def test_keep_freezes_and_resumes_who_is_inside(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=A))
    engine = harness.starter.started[0]
    engine.release.clear()
    inside = asyncio.create_task(harness.ask())
    await engine.entered.wait()
    result = await harness.pool.activate(ActivateRequest(model=B, in_flight="keep"))
    assert (result.method, result.in_flight) == ("in_place", 1)
    assert not engine.frozen
    engine.release.set()
    assert await inside == b"b:"


@scenario
async def test_blue_green_nobody_waits_and_the_old_one_finishes(harness: PoolHarness) -> None:
    harness.free_bytes = 10_000
    await harness.pool.activate(ActivateRequest(model=A))
    old = harness.starter.started[0]
    old.release.clear()
    inside = asyncio.create_task(harness.ask())
    await old.entered.wait()
    harness.starter.may_start.clear()
    harness.starter.starting.clear()
    switching = asyncio.create_task(harness.pool.activate(ActivateRequest(model=OTHER)))
    await harness.starter.starting.wait()
    assert harness.gate.slot is not None
    harness.starter.may_start.set()
    result = await switching
    assert (result.method, result.paused_ms, result.held_ms) == ("blue_green", 0, 0)
    assert await harness.ask() == b"other:"
    assert [slot.phase for slot in harness.pool.snapshot().slots] == ["ready", "draining"]
    assert not old.stopped
    old.release.set()
    assert await inside == b"a:"
    await eventually(lambda: old.stopped)
    await eventually(lambda: len(harness.pool.snapshot().slots) == 1)


@scenario
async def test_a_bad_candidate_beside_the_old_one_is_never_reached(harness: PoolHarness) -> None:
    harness.free_bytes = 10_000
    await harness.pool.activate(ActivateRequest(model=A))
    result = await harness.pool.activate(ActivateRequest(model=OTHER, reference=reference("somebody else")))
    assert (result.status, result.method, result.rolled_back_to) == ("failed", "blue_green", "a")
    assert result.held_ms == 0
    assert harness.starter.started[1].stopped
    assert not harness.starter.started[0].stopped
    assert await harness.ask() == b"a:"


def test_a_model_loaded_beside_takes_over_at_once_and_the_old_one_stays() -> None:
    @scenario
    async def run(harness: PoolHarness) -> None:
        harness.free_bytes = 10_000
        await harness.pool.activate(ActivateRequest(model=model("a", signature())))
        await harness.load(model("b", signature()))
        result = await harness.pool.activate(ActivateRequest(model=model("b", signature())))
        assert (result.status, result.method, result.paused_ms, result.held_ms) == ("activated", "blue_green", 0.0, 0.0)
        assert await harness.ask() == b"b:"
        assert [(slot.model.id, slot.active) for slot in harness.pool.snapshot().slots] == [("b", True), ("a", False)]
        assert len(harness.starter.started) == 2
        assert not harness.starter.started[0].stopped

    run()


def test_a_model_loaded_beside_that_fails_its_proof_does_not_take_over() -> None:
    @scenario
    async def run(harness: PoolHarness) -> None:
        harness.free_bytes = 10_000
        await harness.pool.activate(ActivateRequest(model=model("a")))
        await harness.load(model("b", signature()))
        result = await harness.pool.activate(ActivateRequest(model=model("b", signature()), reference=reference("c")))
        assert (result.status, result.rolled_back_to) == ("failed", "a")
        assert await harness.ask() == b"a:"
        await eventually(lambda: harness.starter.started[1].stopped)

    run()


def test_an_idle_model_gives_way_to_a_switch_that_needs_its_memory() -> None:
    @scenario
    async def run(harness: PoolHarness) -> None:
        harness.free_bytes = 1_100
        await harness.pool.activate(ActivateRequest(model=model("a", signature())))
        await harness.load(model("b", signature()))
        beside = harness.starter.started[1]
        harness.memory_of = lambda: 1_100 if beside.stopped else 500
        other = model("c", signature(architecture="LlamaForCausalLM"))
        result = await harness.pool.activate(ActivateRequest(model=other))
        assert result.method == "blue_green"
        assert beside.stopped

    run()


@pytest.mark.parametrize("load_on_request", [True, False])
def test_a_request_for_the_model_that_is_being_switched_to_waits_for_the_switch(load_on_request: bool) -> None:
    scenario(lambda harness: _requests_during_a_switch(harness, load_on_request))()


async def _requests_during_a_switch(harness: PoolHarness, load_on_request: bool) -> None:
    harness.router.load_on_request = load_on_request
    harness.free_bytes = 10_000
    harness.register.models["other"] = OTHER
    await harness.pool.activate(ActivateRequest(model=A))
    harness.starter.may_start.clear()
    harness.starter.starting.clear()
    switching = asyncio.create_task(harness.pool.activate(ActivateRequest(model=OTHER, method="blue_green")))
    await harness.starter.starting.wait()
    asking = [asyncio.create_task(harness.enter("other")) for _ in range(4)]
    await eventually(lambda: harness.router.held == 4)
    harness.starter.may_start.set()
    assert (await switching).status == "activated"
    active = await harness.enter("active")
    assert await asyncio.gather(*asking) == [active] * 4
    assert harness.starter.asked == ["a", "other"]


@scenario
async def test_a_job_for_the_model_that_is_being_switched_to_waits_for_the_switch(harness: PoolHarness) -> None:
    harness.free_bytes = 10_000
    await harness.pool.activate(ActivateRequest(model=A))
    harness.starter.may_start.clear()
    harness.starter.starting.clear()
    switching = asyncio.create_task(harness.pool.activate(ActivateRequest(model=OTHER, method="blue_green")))
    await harness.starter.starting.wait()
    loading = asyncio.create_task(harness.load(OTHER, wait=False))
    harness.starter.broken.add("other")
    harness.starter.may_start.set()
    assert (await switching).status == "failed"
    with pytest.raises(LoadFailed, match="no such architecture"):
        await loading
    assert harness.starter.asked == ["a", "other"], "what just failed is not tried again for a job"


@scenario
async def test_a_rollback_that_needs_an_engine_waits_for_the_one_that_starts(harness: PoolHarness) -> None:
    harness.free_bytes = 10_000
    await harness.pool.activate(ActivateRequest(model=A))
    harness.starter.may_start.clear()
    harness.starter.starting.clear()
    loading = asyncio.create_task(harness.load(OTHER))
    await harness.starter.starting.wait()
    harness.starter.started[0].cannot_take = {"a", "b"}
    switching = asyncio.create_task(harness.pool.activate(ActivateRequest(model=B)))
    await harness.starter.started[0].reloading.wait()
    for _ in range(100):
        await asyncio.sleep(0)
    assert harness.starter.asked == ["a", "other"]
    assert not harness.starter.started[0].stopped, "nobody else is to take the memory that it leaves free"
    harness.starter.may_start.set()
    await loading
    assert (await switching).rolled_back_to == "a"
    assert harness.starter.asked == ["a", "other", "a"]
    assert await harness.ask() == b"a:"


async def _asking(harness: PoolHarness, name: str) -> tuple[FakeEngine, asyncio.Task[bytes]]:
    """A request for a model that is loaded, which is inside its engine until that is released."""
    served = await harness.enter(name)
    engine = next(each for each in harness.starter.started if each.ref.id == name and not each.stopped)
    engine.release.clear()

    async def ask() -> bytes:
        client = FakeClient(b"")
        await client.receive()
        await served.serve(client.scope, replay(b"", client.receive), client.send)
        return client.body

    asking = asyncio.create_task(ask())
    await engine.entered.wait()
    return engine, asking


@scenario
async def test_a_restart_of_a_model_loaded_beside_fails_while_requests_are_inside_it(harness: PoolHarness) -> None:
    """Found by the interleavings: its slot was ended after `timeout_s`, under the requests."""
    harness.free_bytes = 10_000
    adapter = ModelRef(id="on-b", path="/", digest="sha256:on-b", base=B)
    await harness.pool.activate(ActivateRequest(model=A))
    await harness.load(B)
    beside, asking = await _asking(harness, "b")
    for target in (B, adapter):
        result = await harness.pool.activate(ActivateRequest(model=target, method="restart", timeout_s=0.01))
        assert (result.status, result.rolled_back_to, result.in_flight) == ("failed", "a", 1)
        assert "1 requests still run" in (result.error or "")
    assert [engine.stopped for engine in harness.starter.started] == [False, False]
    beside.release.set()
    assert await asking == b"b:"
    assert (await harness.enter("b")).model == B
    assert await harness.ask() == b"a:"


@scenario
async def test_a_restart_of_a_model_loaded_beside_ends_its_engine_first(harness: PoolHarness) -> None:
    harness.free_bytes = 10_000
    harness.register.models["b"] = B
    await harness.pool.activate(ActivateRequest(model=A))
    await harness.load(B)
    beside, asking = await _asking(harness, "b")
    switching = asyncio.create_task(harness.pool.activate(ActivateRequest(model=B, method="restart")))
    await eventually(lambda: harness.gate.slot is None)
    waiting = asyncio.create_task(harness.enter("b"))
    await eventually(lambda: harness.gate.held == 1)
    assert harness.starter.asked == ["a", "b"], "no second engine while requests are inside the first"
    harness.starter.may_start.clear()
    beside.release.set()
    assert await asking == b"b:"
    await eventually(lambda: harness.starter.asked == ["a", "b", "b"])
    assert [engine.stopped for engine in harness.starter.started] == [True, True]
    harness.starter.may_start.set()
    assert (await switching).status == "activated"
    assert await waiting is await harness.enter("active")


@scenario
async def test_a_restart_with_abort_ends_requests_of_the_model_loaded_beside(harness: PoolHarness) -> None:
    harness.free_bytes = 10_000
    await harness.pool.activate(ActivateRequest(model=A))
    await harness.load(B)
    _, asking = await _asking(harness, "b")
    result = await harness.pool.activate(ActivateRequest(model=B, method="restart", in_flight="abort"))
    assert (result.status, len(harness.starter.started)) == ("activated", 3)
    assert b"aborted" in await asking


@scenario
async def test_in_place_to_a_model_loaded_beside_leaves_its_requests_their_engine(harness: PoolHarness) -> None:
    harness.free_bytes = 10_000
    await harness.pool.activate(ActivateRequest(model=A))
    await harness.load(B)
    beside, asking = await _asking(harness, "b")
    result = await harness.pool.activate(ActivateRequest(model=B, method="in_place", timeout_s=0.01))
    assert (result.status, result.method) == ("activated", "in_place")
    assert await harness.enter("b") is await harness.enter("active")
    assert await asyncio.wait({asking}, timeout=0.1) == (set(), {asking}), (
        "`timeout_s` is for those whose weights change"
    )
    assert not beside.stopped
    beside.release.set()
    assert await asking == b"b:"
    await eventually(lambda: beside.stopped)


@scenario
async def test_a_model_loaded_beside_takes_over_from_one_that_does_not_start(harness: PoolHarness) -> None:
    harness.free_bytes = 10_000
    await harness.pool.activate(ActivateRequest(model=A))
    await harness.load(B)
    harness.starter.broken.add("a")
    harness.starter.started[0].dead = True
    await eventually(lambda: bool(harness.pool.snapshot().failed_loads))
    result = await harness.pool.activate(ActivateRequest(model=B))
    assert (result.status, result.method, result.paused_ms) == ("activated", "blue_green", 0.0)
    assert await harness.ask() == b"b:"
    assert len(harness.starter.started) == 2
