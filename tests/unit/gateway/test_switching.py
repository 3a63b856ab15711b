"""Switches in place and beside the running engine, as the requests at the gate see them."""

import asyncio

import pytest

from gateway.errors import LoadFailed
from gateway.http.asgi import replay
from stepserve.contract import ActivateRequest, ModelRef
from tests.eventually import eventually
from tests.unit.gateway.fakes import FakeClient, FakeEngine, model, reference, signature
from tests.unit.gateway.pool_house import House, scenario

A, B = model("a", signature()), model("b", signature())
OTHER = model("other", signature(tensors_sha="x"))


@scenario
async def test_in_place_keeps_the_engine_and_changes_its_name(house: House) -> None:
    await house.pool.activate(ActivateRequest(model=A))
    result = await house.pool.activate(ActivateRequest(model=B, reference=reference("b")))
    assert (result.status, result.method, result.previous) == ("activated", "in_place", "a")
    assert result.proof is not None
    assert result.proof.kind == "reference"
    assert await house.ask() == b"b:"
    assert len(house.garage.started) == 1
    assert house.pool.snapshot().slots[0].model == B


@scenario
async def test_in_place_a_request_inside_finishes_first_and_others_wait(house: House) -> None:
    await house.pool.activate(ActivateRequest(model=A))
    engine = house.garage.started[0]
    engine.release.clear()
    inside = asyncio.create_task(house.ask())
    await engine.entered.wait()
    switching = asyncio.create_task(house.pool.activate(ActivateRequest(model=B)))
    await eventually(lambda: house.gate.slot is None)
    later = asyncio.create_task(house.ask())
    await eventually(lambda: house.pool.snapshot().held == 1)
    assert engine.reloads == 0
    engine.release.set()
    assert await inside == b"a:"
    assert (await switching).in_flight == 1
    assert await later == b"b:"


@scenario
async def test_a_failed_proof_in_place_brings_the_old_tensors_back(house: House) -> None:
    await house.pool.activate(ActivateRequest(model=A, reference=reference("a")))
    result = await house.pool.activate(ActivateRequest(model=B, reference=reference("somebody else")))
    assert (result.status, result.rolled_back_to) == ("failed", "a")
    assert result.proof is not None
    assert not result.proof.passed
    assert await house.ask() == b"a:"
    assert len(house.garage.started) == 1


@scenario
async def test_a_reload_that_tears_brings_the_old_tensors_back(house: House) -> None:
    await house.pool.activate(ActivateRequest(model=A, reference=reference("a")))
    house.garage.started[0].cannot_take = {"b"}
    result = await house.pool.activate(ActivateRequest(model=B))
    assert (result.status, result.rolled_back_to) == ("failed", "a")
    assert await house.ask() == b"a:"
    assert len(house.garage.started) == 1


@scenario
async def test_when_the_old_tensors_do_not_go_back_either_a_new_engine_has_them(house: House) -> None:
    await house.pool.activate(ActivateRequest(model=A))
    house.garage.started[0].cannot_take = {"a", "b"}
    result = await house.pool.activate(ActivateRequest(model=B))
    assert (result.status, result.rolled_back_to) == ("failed", "a")
    assert [engine.stopped for engine in house.garage.started] == [True, False]
    assert await house.ask() == b"a:"


@scenario
async def test_an_engine_that_dies_when_it_is_frozen_is_replaced(house: House) -> None:
    await house.pool.activate(ActivateRequest(model=A))
    house.garage.started[0].dies_when_frozen = True
    result = await house.pool.activate(ActivateRequest(model=B, in_flight="keep"))
    assert (result.status, result.rolled_back_to) == ("failed", "a")
    assert await house.ask() == b"a:"
    assert [engine.stopped for engine in house.garage.started] == [True, False]


@scenario
async def test_keep_freezes_and_resumes_who_is_inside(house: House) -> None:
    await house.pool.activate(ActivateRequest(model=A))
    engine = house.garage.started[0]
    engine.release.clear()
    inside = asyncio.create_task(house.ask())
    await engine.entered.wait()
    result = await house.pool.activate(ActivateRequest(model=B, in_flight="keep"))
    assert (result.method, result.in_flight) == ("in_place", 1)
    assert not engine.frozen
    engine.release.set()
    assert await inside == b"b:"


@scenario
async def test_blue_green_nobody_waits_and_the_old_one_finishes(house: House) -> None:
    house.free_bytes = 10_000
    await house.pool.activate(ActivateRequest(model=A))
    old = house.garage.started[0]
    old.release.clear()
    inside = asyncio.create_task(house.ask())
    await old.entered.wait()
    house.garage.may_start.clear()
    house.garage.starting.clear()
    switching = asyncio.create_task(house.pool.activate(ActivateRequest(model=OTHER)))
    await house.garage.starting.wait()
    assert house.gate.slot is not None
    house.garage.may_start.set()
    result = await switching
    assert (result.method, result.paused_ms, result.held_ms) == ("blue_green", 0, 0)
    assert await house.ask() == b"other:"
    assert [slot.phase for slot in house.pool.snapshot().slots] == ["ready", "draining"]
    assert not old.stopped
    old.release.set()
    assert await inside == b"a:"
    await eventually(lambda: old.stopped)
    await eventually(lambda: len(house.pool.snapshot().slots) == 1)


@scenario
async def test_a_bad_candidate_beside_the_old_one_is_never_reached(house: House) -> None:
    house.free_bytes = 10_000
    await house.pool.activate(ActivateRequest(model=A))
    result = await house.pool.activate(ActivateRequest(model=OTHER, reference=reference("somebody else")))
    assert (result.status, result.method, result.rolled_back_to) == ("failed", "blue_green", "a")
    assert result.held_ms == 0
    assert house.garage.started[1].stopped
    assert not house.garage.started[0].stopped
    assert await house.ask() == b"a:"


def test_a_model_loaded_beside_takes_over_at_once_and_the_old_one_stays() -> None:
    @scenario
    async def run(house: House) -> None:
        house.free_bytes = 10_000
        await house.pool.activate(ActivateRequest(model=model("a", signature())))
        await house.load(model("b", signature()))
        result = await house.pool.activate(ActivateRequest(model=model("b", signature())))
        assert (result.status, result.method, result.paused_ms, result.held_ms) == ("activated", "blue_green", 0.0, 0.0)
        assert await house.ask() == b"b:"
        assert [(slot.model.id, slot.active) for slot in house.pool.snapshot().slots] == [("b", True), ("a", False)]
        assert len(house.garage.started) == 2
        assert not house.garage.started[0].stopped

    run()


def test_a_model_loaded_beside_that_fails_its_proof_does_not_take_over() -> None:
    @scenario
    async def run(house: House) -> None:
        house.free_bytes = 10_000
        await house.pool.activate(ActivateRequest(model=model("a")))
        await house.load(model("b", signature()))
        result = await house.pool.activate(ActivateRequest(model=model("b", signature()), reference=reference("c")))
        assert (result.status, result.rolled_back_to) == ("failed", "a")
        assert await house.ask() == b"a:"
        await eventually(lambda: house.garage.started[1].stopped)

    run()


def test_an_idle_model_gives_way_to_a_switch_that_needs_its_memory() -> None:
    @scenario
    async def run(house: House) -> None:
        house.free_bytes = 1_100
        await house.pool.activate(ActivateRequest(model=model("a", signature())))
        await house.load(model("b", signature()))
        beside = house.garage.started[1]
        house.memory_of = lambda: 1_100 if beside.stopped else 500
        other = model("c", signature(architecture="LlamaForCausalLM"))
        result = await house.pool.activate(ActivateRequest(model=other))
        assert result.method == "blue_green"
        assert beside.stopped

    run()


@pytest.mark.parametrize("load_on_request", [True, False])
def test_a_request_for_the_model_that_is_being_switched_to_waits_for_the_switch(load_on_request: bool) -> None:
    scenario(lambda house: _requests_during_a_switch(house, load_on_request))()


async def _requests_during_a_switch(house: House, load_on_request: bool) -> None:
    house.router.load_on_request = load_on_request
    house.free_bytes = 10_000
    house.register.models["other"] = OTHER
    await house.pool.activate(ActivateRequest(model=A))
    house.garage.may_start.clear()
    house.garage.starting.clear()
    switching = asyncio.create_task(house.pool.activate(ActivateRequest(model=OTHER, method="blue_green")))
    await house.garage.starting.wait()
    asking = [asyncio.create_task(house.enter("other")) for _ in range(4)]
    await eventually(lambda: house.router.held == 4)
    house.garage.may_start.set()
    assert (await switching).status == "activated"
    active = await house.enter("active")
    assert await asyncio.gather(*asking) == [active] * 4
    assert house.garage.asked == ["a", "other"]


@scenario
async def test_a_job_for_the_model_that_is_being_switched_to_waits_for_the_switch(house: House) -> None:
    house.free_bytes = 10_000
    await house.pool.activate(ActivateRequest(model=A))
    house.garage.may_start.clear()
    house.garage.starting.clear()
    switching = asyncio.create_task(house.pool.activate(ActivateRequest(model=OTHER, method="blue_green")))
    await house.garage.starting.wait()
    loading = asyncio.create_task(house.load(OTHER, wait=False))
    house.garage.broken.add("other")
    house.garage.may_start.set()
    assert (await switching).status == "failed"
    with pytest.raises(LoadFailed, match="no such architecture"):
        await loading
    assert house.garage.asked == ["a", "other"], "what just failed is not tried again for a job"


@scenario
async def test_a_rollback_that_needs_an_engine_waits_for_the_one_that_starts(house: House) -> None:
    house.free_bytes = 10_000
    await house.pool.activate(ActivateRequest(model=A))
    house.garage.may_start.clear()
    house.garage.starting.clear()
    loading = asyncio.create_task(house.load(OTHER))
    await house.garage.starting.wait()
    house.garage.started[0].cannot_take = {"a", "b"}
    switching = asyncio.create_task(house.pool.activate(ActivateRequest(model=B)))
    await house.garage.started[0].reloading.wait()
    for _ in range(100):
        await asyncio.sleep(0)
    assert house.garage.asked == ["a", "other"]
    assert not house.garage.started[0].stopped, "nobody else is to take the memory that it leaves free"
    house.garage.may_start.set()
    await loading
    assert (await switching).rolled_back_to == "a"
    assert house.garage.asked == ["a", "other", "a"]
    assert await house.ask() == b"a:"


async def _asking(house: House, name: str) -> tuple[FakeEngine, asyncio.Task[bytes]]:
    """A request for a model that is loaded, which is inside its engine until that is released."""
    served = await house.enter(name)
    engine = next(each for each in house.garage.started if each.ref.id == name and not each.stopped)
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
async def test_a_restart_of_a_model_loaded_beside_fails_while_requests_are_inside_it(house: House) -> None:
    """Found by the interleavings: its slot was ended after `timeout_s`, under the requests."""
    house.free_bytes = 10_000
    adapter = ModelRef(id="on-b", path="/", digest="sha256:on-b", base=B)
    await house.pool.activate(ActivateRequest(model=A))
    await house.load(B)
    beside, asking = await _asking(house, "b")
    for target in (B, adapter):
        result = await house.pool.activate(ActivateRequest(model=target, method="restart", timeout_s=0.01))
        assert (result.status, result.rolled_back_to, result.in_flight) == ("failed", "a", 1)
        assert "1 requests still run" in (result.error or "")
    assert [engine.stopped for engine in house.garage.started] == [False, False]
    beside.release.set()
    assert await asking == b"b:"
    assert (await house.enter("b")).model == B
    assert await house.ask() == b"a:"


@scenario
async def test_a_restart_of_a_model_loaded_beside_ends_its_engine_first(house: House) -> None:
    house.free_bytes = 10_000
    house.register.models["b"] = B
    await house.pool.activate(ActivateRequest(model=A))
    await house.load(B)
    beside, asking = await _asking(house, "b")
    switching = asyncio.create_task(house.pool.activate(ActivateRequest(model=B, method="restart")))
    await eventually(lambda: house.gate.slot is None)
    waiting = asyncio.create_task(house.enter("b"))
    await eventually(lambda: house.gate.held == 1)
    assert house.garage.asked == ["a", "b"], "no second engine while requests are inside the first"
    house.garage.may_start.clear()
    beside.release.set()
    assert await asking == b"b:"
    await eventually(lambda: house.garage.asked == ["a", "b", "b"])
    assert [engine.stopped for engine in house.garage.started] == [True, True]
    house.garage.may_start.set()
    assert (await switching).status == "activated"
    assert await waiting is await house.enter("active")


@scenario
async def test_a_restart_with_abort_ends_requests_of_the_model_loaded_beside(house: House) -> None:
    house.free_bytes = 10_000
    await house.pool.activate(ActivateRequest(model=A))
    await house.load(B)
    _, asking = await _asking(house, "b")
    result = await house.pool.activate(ActivateRequest(model=B, method="restart", in_flight="abort"))
    assert (result.status, len(house.garage.started)) == ("activated", 3)
    assert b"aborted" in await asking


@scenario
async def test_in_place_to_a_model_loaded_beside_leaves_its_requests_their_engine(house: House) -> None:
    house.free_bytes = 10_000
    await house.pool.activate(ActivateRequest(model=A))
    await house.load(B)
    beside, asking = await _asking(house, "b")
    result = await house.pool.activate(ActivateRequest(model=B, method="in_place", timeout_s=0.01))
    assert (result.status, result.method) == ("activated", "in_place")
    assert await house.enter("b") is await house.enter("active")
    assert await asyncio.wait({asking}, timeout=0.1) == (set(), {asking}), (
        "`timeout_s` is for those whose weights change"
    )
    assert not beside.stopped
    beside.release.set()
    assert await asking == b"b:"
    await eventually(lambda: beside.stopped)


@scenario
async def test_a_model_loaded_beside_takes_over_from_one_that_does_not_start(house: House) -> None:
    house.free_bytes = 10_000
    await house.pool.activate(ActivateRequest(model=A))
    await house.load(B)
    house.garage.broken.add("a")
    house.garage.started[0].dead = True
    await eventually(lambda: bool(house.pool.snapshot().failed_loads))
    result = await house.pool.activate(ActivateRequest(model=B))
    assert (result.status, result.method, result.paused_ms) == ("activated", "blue_green", 0.0)
    assert await house.ask() == b"b:"
    assert len(house.garage.started) == 2
