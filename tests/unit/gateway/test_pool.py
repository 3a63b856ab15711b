"""The pool over engines that start, fail and die as told."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from gateway.asgi import replay, until_disconnected
from gateway.errors import EngineReloadFailed, MethodImpossible, SwitchInProgress, Unserved
from gateway.gate import Gate
from gateway.plan import Memory
from gateway.pool import Pool
from gateway.watchdog import Watchdog
from switchyard.contract import ActivateRequest
from tests.unit.gateway.fakes import Client, Garage, model, reference, signature


class House:
    def __init__(self) -> None:
        self.garage = Garage()
        self.gate = Gate(64, 10.0)
        self.free_bytes = 0
        self.memory_of: Callable[[], int] = lambda: self.free_bytes
        self.watchdog = Watchdog()
        self.pool = Pool(
            self.gate,
            self.garage.start,
            0.01,
            lambda: Memory(free_bytes=self.memory_of(), engine_bytes=100),
            max_loaded=2,
            poll_s=0.001,
            first_delay_s=0.001,
            watchdog=self.watchdog,
        )

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["House"]:
        writer = asyncio.create_task(self.pool.run())
        try:
            yield self
        finally:
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer

    async def ask(self) -> bytes:
        client = Client(b"")
        await client.receive()
        slot = await self.gate.enter("active", lambda: until_disconnected(client.receive))
        await slot.serve(client.scope, replay(b"", client.receive), client.send)
        return client.body


def scenario(test: Callable[[House], Awaitable[None]]) -> Callable[[], None]:
    async def run() -> None:
        async with House().open() as house, asyncio.timeout(10.0):
            await test(house)

    def wrapped() -> None:
        asyncio.run(run())

    wrapped.__name__ = getattr(test, "__name__", "scenario")
    return wrapped


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


@scenario
async def test_the_first_model(house: House) -> None:
    result = await house.pool.activate(ActivateRequest(model=model("a")))
    assert (result.status, result.previous, result.method) == ("activated", None, "restart")
    assert await house.ask() == b"a:"
    state = house.pool.snapshot()
    assert state.active == model("a")
    assert [slot.phase for slot in state.slots] == ["ready"]


@scenario
async def test_requests_during_a_switch_wait_and_the_old_engine_ends_first(house: House) -> None:
    await house.pool.activate(ActivateRequest(model=model("a")))
    house.garage.may_start.clear()
    house.garage.starting.clear()
    switching = asyncio.create_task(house.pool.activate(ActivateRequest(model=model("b"))))
    await house.garage.starting.wait()
    assert house.garage.started[0].stopped
    asking = [asyncio.create_task(house.ask()) for _ in range(5)]
    await until(lambda: house.pool.snapshot().held == 5)
    assert house.pool.snapshot().switching_to == "b"
    house.garage.may_start.set()
    result = await switching
    assert (result.previous, result.id) == ("a", "b")
    assert await asyncio.gather(*asking) == [b"b:"] * 5


@scenario
async def test_a_request_inside_finishes_on_the_weights_it_began_with(house: House) -> None:
    await house.pool.activate(ActivateRequest(model=model("a")))
    old = house.garage.started[0]
    old.release.clear()
    asking = asyncio.create_task(house.ask())
    await old.entered.wait()
    switching = asyncio.create_task(house.pool.activate(ActivateRequest(model=model("b"))))
    await until(lambda: house.gate.slot is None)
    assert not old.stopped
    old.release.set()
    assert await asking == b"a:"
    assert (await switching).in_flight == 1
    assert await house.ask() == b"b:"


@scenario
async def test_a_drain_that_takes_too_long_changes_nothing(house: House) -> None:
    await house.pool.activate(ActivateRequest(model=model("a")))
    old = house.garage.started[0]
    old.release.clear()
    asking = asyncio.create_task(house.ask())
    await old.entered.wait()
    result = await house.pool.activate(ActivateRequest(model=model("b"), timeout_s=0.01))
    assert (result.status, result.rolled_back_to) == ("failed", "a")
    assert "1 requests still run" in (result.error or "")
    old.release.set()
    assert await asking == b"a:"
    assert await house.ask() == b"a:"
    assert not old.stopped


@scenario
async def test_abort_does_not_wait(house: House) -> None:
    await house.pool.activate(ActivateRequest(model=model("a")))
    old = house.garage.started[0]
    old.release.clear()
    asking = asyncio.create_task(house.ask())
    await old.entered.wait()
    result = await house.pool.activate(ActivateRequest(model=model("b"), in_flight="abort"))
    assert result.status == "activated"
    assert b"aborted" in await asking


@pytest.mark.parametrize("fault", ["broken", "unsound"])
def test_a_bad_candidate_leaves_the_old_one_serving(fault: str) -> None:
    @scenario
    async def run(house: House) -> None:
        await house.pool.activate(ActivateRequest(model=model("a")))
        getattr(house.garage, fault).add("b")
        result = await house.pool.activate(ActivateRequest(model=model("b")))
        assert (result.status, result.rolled_back_to) == ("failed", "a")
        assert await house.ask() == b"a:"
        state = house.pool.snapshot()
        assert state.active == model("a")
        assert [failed.id for failed in state.failed_loads] == ["b"]
        assert state.failed_loads[0].retry_in_s > 0
        assert [engine.stopped for engine in house.garage.started if engine.ref.id == "b"] in ([], [True])

    run()


@scenario
async def test_when_neither_loads_the_old_one_is_tried_until_it_does(house: House) -> None:
    await house.pool.activate(ActivateRequest(model=model("a")))
    house.garage.broken |= {"a", "b"}
    result = await house.pool.activate(ActivateRequest(model=model("b")))
    assert (result.status, result.rolled_back_to) == ("failed", None)
    with pytest.raises(Unserved):
        await house.ask()
    house.garage.broken.clear()
    await until(lambda: house.gate.slot is not None)
    assert await house.ask() == b"a:"


@scenario
async def test_a_dead_engine_is_replaced(house: House) -> None:
    await house.pool.activate(ActivateRequest(model=model("a")))
    house.garage.broken.add("a")
    house.garage.started[0].dead = True
    await until(lambda: bool(house.pool.snapshot().failed_loads))
    with pytest.raises(Unserved, match="does not start"):
        await house.ask()
    house.garage.broken.clear()
    await until(lambda: house.gate.slot is not None)
    assert house.garage.started[0].stopped
    assert await house.ask() == b"a:"
    assert house.pool.snapshot().failed_loads == []


@scenario
async def test_one_switch_at_a_time(house: House) -> None:
    house.garage.may_start.clear()
    first = asyncio.create_task(house.pool.activate(ActivateRequest(model=model("a"))))
    await house.garage.starting.wait()
    with pytest.raises(SwitchInProgress, match="`a`"):
        await house.pool.activate(ActivateRequest(model=model("b")))
    house.garage.may_start.set()
    assert (await first).status == "activated"


@scenario
async def test_a_switch_goes_on_when_its_caller_leaves(house: House) -> None:
    house.garage.may_start.clear()
    caller = asyncio.create_task(house.pool.activate(ActivateRequest(model=model("a"))))
    await house.garage.starting.wait()
    caller.cancel()
    house.garage.may_start.set()
    await until(lambda: house.gate.slot is not None)
    assert await house.ask() == b"a:"


@scenario
async def test_what_cannot_be_done_is_said_at_once(house: House) -> None:
    with pytest.raises(MethodImpossible, match="in_place"):
        await house.pool.activate(ActivateRequest(model=model("a"), method="in_place"))
    with pytest.raises(MethodImpossible, match="keep"):
        await house.pool.activate(ActivateRequest(model=model("a"), in_flight="keep"))
    assert house.pool.snapshot().switching_to is None


@scenario
async def test_an_engine_that_hangs_is_replaced(house: House) -> None:
    house.watchdog.every_s = house.watchdog.deadline_s = 0.001
    await house.pool.activate(ActivateRequest(model=model("a")))
    stuck = house.garage.started[0]
    stuck.release.clear()
    asking = asyncio.create_task(house.ask())
    await until(lambda: len(house.garage.started) == 2)
    assert stuck.stopped
    assert await house.ask() == b"a:"
    assert b"died" in await asking


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
    await until(lambda: house.gate.slot is None)
    later = asyncio.create_task(house.ask())
    await until(lambda: house.pool.snapshot().held == 1)
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
    await until(lambda: old.stopped)
    await until(lambda: len(house.pool.snapshot().slots) == 1)


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
        await house.pool.residents.load(model("b", signature()), None)
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
        await house.pool.residents.load(model("b", signature()), None)
        result = await house.pool.activate(ActivateRequest(model=model("b", signature()), reference=reference("c")))
        assert (result.status, result.rolled_back_to) == ("failed", "a")
        assert await house.ask() == b"a:"
        await until(lambda: house.garage.started[1].stopped)

    run()


def test_an_idle_model_gives_way_to_a_switch_that_needs_its_memory() -> None:
    @scenario
    async def run(house: House) -> None:
        house.free_bytes = 1_100
        await house.pool.activate(ActivateRequest(model=model("a", signature())))
        await house.pool.residents.load(model("b", signature()), None)
        beside = house.garage.started[1]
        house.memory_of = lambda: 1_100 if beside.stopped else 500
        other = model("c", signature(architecture="LlamaForCausalLM"))
        result = await house.pool.activate(ActivateRequest(model=other))
        assert result.method == "blue_green"
        assert beside.stopped

    run()


def test_a_defect_in_a_switch_costs_the_slot_and_not_the_pool() -> None:
    @scenario
    async def run(house: House) -> None:
        await house.pool.activate(ActivateRequest(model=model("a", signature())))
        with pytest.raises(EngineReloadFailed, match="nobody thought of this"):
            await house.pool.activate(ActivateRequest(model=model("defect", signature()), method="in_place"))
        await until(lambda: len(house.garage.started) == 2 and house.gate.slot is not None)
        assert await house.ask() == b"a:"

    run()
