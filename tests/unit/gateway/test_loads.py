"""Models that are loaded in addition to the active one: shared loads, room, and the one that leaves."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.errors import LoadFailed, ModelNotFound, NoRoom, NotLoaded, Unserved
from gateway.serving.slot import Slot
from stepserve.contract import ActivateRequest
from tests.eventually import eventually
from tests.unit.gateway.fakes import FakeClient, FakeEngine, Register, model, reference, signature
from tests.unit.gateway.pool_harness import PoolHarness, scenario

A, B, C = (model(name, signature()) for name in "abc")


def run(test: Callable[[PoolHarness], Awaitable[None]], **settings: Any) -> None:
    """With `active-one` active, the registered models a, b and c, and memory for all of them."""

    async def prepared(harness: PoolHarness) -> None:
        harness.free_bytes = 10_000
        harness.register = harness.router.directory = Register(A, B, C)
        await harness.pool.activate(ActivateRequest(model=model("active-one", signature(tensors_sha="other"))))
        harness.starter.started.clear()
        harness.starter.starting.clear()
        await test(harness)

    scenario(prepared, lambda: PoolHarness(**settings))()


def loaded(harness: PoolHarness) -> list[str]:
    return [slot.model.id for slot in harness.pool.loaded.others]


def test_a_request_loads_the_registered_model_it_names() -> None:
    async def test(harness: PoolHarness) -> None:
        assert (await harness.enter("a")).model == A
        assert (await harness.enter("active")).model.id == "active-one"
        assert (await harness.enter("a")) is (await harness.enter("a"))
        assert harness.register.asked == ["a"], "a loaded model is found without asking anybody"

    run(test)


def test_a_model_that_is_not_registered_is_not_found() -> None:
    async def test(harness: PoolHarness) -> None:
        with pytest.raises(ModelNotFound, match="nowhere"):
            await harness.enter("nowhere")

    run(test)


def test_every_name_that_could_be_asked_for_is_known() -> None:
    async def test(harness: PoolHarness) -> None:
        assert await harness.router.names() == ["active-one", "active", "a", "b", "c"]
        await harness.enter("b")
        await harness.load(model("tuned").model_copy(update={"base": B}))
        harness.router.load_on_request = False
        assert await harness.router.names() == ["active-one", "active", "b", "tuned"]
        for name in await harness.router.names():
            assert (await harness.enter(name)).names
        harness.gate.hold()
        assert await harness.router.names() == ["active", "b", "tuned"]

    run(test)


def test_a_registered_model_is_refused_where_requests_load_nothing() -> None:
    async def test(harness: PoolHarness) -> None:
        harness.router.load_on_request = False
        with pytest.raises(NotLoaded, match="set_active"):
            await harness.enter("a")

    run(test)


def test_requests_for_one_model_share_its_load() -> None:
    async def test(harness: PoolHarness) -> None:
        harness.starter.may_start.clear()
        asking = [asyncio.create_task(harness.enter("a")) for _ in range(5)]
        await harness.starter.starting.wait()
        harness.starter.may_start.set()
        slots = await asyncio.gather(*asking)
        assert len(harness.starter.started) == 1
        assert {id(slot) for slot in slots} == {id(slots[0])}

    run(test)


def test_a_client_that_leaves_does_not_stop_the_load_of_the_others() -> None:
    async def test(harness: PoolHarness) -> None:
        harness.starter.may_start.clear()
        hasty, patient = FakeClient(b""), FakeClient(b"")
        asking = [asyncio.create_task(harness.enter("a", each)) for each in (hasty, patient)]
        await hasty.receive()
        await patient.receive()
        await harness.starter.starting.wait()
        hasty.left.set()
        await asyncio.wait({asking[0]})
        assert asking[0].exception() is not None
        harness.starter.may_start.set()
        assert (await asking[1]).model.id == "a"

    run(test)


def test_the_idle_one_used_least_recently_leaves() -> None:
    async def test(harness: PoolHarness) -> None:
        first, second = await harness.enter("a"), await harness.enter("b")
        assert isinstance(first, Slot)
        assert isinstance(second, Slot)
        first.use.last_s, second.use.last_s = 2.0, 1.0
        await harness.enter("c")
        assert sorted(loaded(harness)) == ["a", "c"]
        assert harness.starter.started[1].stopped

    run(test, max_loaded=3)


def test_a_busy_one_stays_until_it_is_idle() -> None:
    async def test(harness: PoolHarness) -> None:
        busy = await harness.enter("a")
        engine = harness.starter.started[0]
        engine.release.clear()
        client = FakeClient(b"")
        answering = asyncio.create_task(busy.serve(client.scope, client.receive, client.send))
        await engine.entered.wait()
        with pytest.raises(NoRoom):
            await harness.load(B, wait=False)
        asking = asyncio.create_task(harness.enter("b"))
        await eventually(lambda: harness.router.held == 1)
        assert not engine.stopped
        engine.release.set()
        assert (await asking).model.id == "b"
        await answering
        assert client.body == b"a:"
        assert engine.stopped

    run(test)


def test_waiting_for_a_busy_one_is_bounded() -> None:
    async def test(harness: PoolHarness) -> None:
        busy = await harness.enter("a")
        engine = harness.starter.started[0]
        engine.release.clear()
        client = FakeClient(b"")
        answering = asyncio.create_task(busy.serve(client.scope, client.receive, client.send))
        await engine.entered.wait()
        with pytest.raises(NoRoom, match="busy"):
            await harness.enter("b")
        engine.release.set()
        await answering

    run(test, load_wait_s=0.01)


@pytest.mark.parametrize(
    ("max_loaded", "free_bytes", "words"),
    [
        (1, 10_000, "max_loaded_models is 1"),
        (2, 1000, "a second engine needs"),
    ],
)
def test_no_room_is_said_at_once(max_loaded: int, free_bytes: int, words: str) -> None:
    async def test(harness: PoolHarness) -> None:
        harness.free_bytes = free_bytes
        with pytest.raises(NoRoom, match=words):
            await harness.enter("a")

    run(test, max_loaded=max_loaded)


def test_a_model_of_unknown_size_has_nobody_leave_for_it() -> None:
    async def test(harness: PoolHarness) -> None:
        await harness.enter("a")
        with pytest.raises(NoRoom, match="the size of the candidate is not known"):
            await harness.load(model("d"))
        assert loaded(harness) == ["a"]

    run(test, max_loaded=3)


@pytest.mark.parametrize("fault", ["broken", "unsound"])
def test_a_failed_load_is_left_alone_until_it_has_cooled_down(fault: str) -> None:
    async def test(harness: PoolHarness) -> None:
        getattr(harness.starter, fault).add("a")
        with pytest.raises(LoadFailed):
            await harness.enter("a")
        getattr(harness.starter, fault).clear()
        started = len(harness.starter.started)
        harness.now_s = 299.0
        with pytest.raises(LoadFailed) as refused:
            await harness.enter("a")
        assert refused.value.retry_after_s == 1.0
        assert len(harness.starter.started) == started
        harness.now_s = 301.0
        assert (await harness.enter("a")).model.id == "a"

    run(test)


def test_a_model_that_says_something_else_than_its_reference_is_not_served() -> None:
    async def test(harness: PoolHarness) -> None:
        harness.register.references["a"] = reference("b")
        with pytest.raises(LoadFailed, match="failed its proof"):
            await harness.enter("a")
        assert loaded(harness) == []

    run(test)


def test_one_that_died_is_loaded_again_when_asked_for() -> None:
    async def test(harness: PoolHarness) -> None:
        await harness.enter("a")
        harness.starter.started[0].dead = True
        await eventually(lambda: loaded(harness) == [])
        await harness.enter("a")
        assert len(harness.starter.started) == 2

    run(test)


def test_other_content_under_the_same_id_replaces_what_is_loaded() -> None:
    async def test(harness: PoolHarness) -> None:
        old = await harness.enter("a")
        await harness.load(A.model_copy(update={"digest": "sha256:new"}))
        new = await harness.enter("a")
        assert new is not old
        assert new.model.digest == "sha256:new"
        await eventually(lambda: harness.starter.started[0].stopped)

    run(test)


def test_two_models_that_have_one_place_are_both_answered() -> None:
    """Who waited for a model enters it before it may leave for the next."""

    async def test(harness: PoolHarness) -> None:
        found = await asyncio.gather(*(harness.enter(name) for name in "abcabc"))
        assert [served.model.id for served in found] == [*"abcabc"]
        assert harness.starter.asked[1:] == ["a", "b", "c"], "each was loaded once"

    run(test)


def test_an_unload_ends_the_wait_for_a_load() -> None:
    async def test(harness: PoolHarness) -> None:
        harness.starter.may_start.clear()
        asking = asyncio.create_task(harness.enter("a"))
        await harness.starter.starting.wait()
        await harness.pool.unload("a")
        with pytest.raises(Unserved, match="unloaded"):
            await asking
        harness.starter.may_start.set()
        await eventually(lambda: bool(harness.starter.started) and harness.starter.started[0].stopped)
        assert loaded(harness) == []

    run(test)


def test_the_active_model_is_not_loaded_again_while_an_adapter_is_taken_off_its_engine() -> None:
    async def test(harness: PoolHarness) -> None:
        active = harness.pool.loaded.active
        assert active is not None
        assert isinstance(active.engine, FakeEngine)
        tuned = model("tuned").model_copy(update={"base": active.model})
        await harness.load(tuned)
        active.engine.may_detach.clear()
        await harness.pool.unload("tuned")
        loading = asyncio.create_task(harness.load(active.model))
        for _ in range(100):
            await asyncio.sleep(0)
        assert harness.starter.started == []
        active.engine.may_detach.set()
        await loading
        assert harness.starter.started == []

    run(test)


def test_the_id_of_the_active_model_has_one_content() -> None:
    async def test(harness: PoolHarness) -> None:
        other = model("active-one", signature()).model_copy(update={"digest": "sha256:new"})
        with pytest.raises(NoRoom, match="other content"):
            await harness.load(other)
        assert harness.starter.started == []

    run(test)


@pytest.mark.parametrize("max_loaded", [2, 3])
def test_a_slot_that_only_finishes_its_requests_counts(max_loaded: int) -> None:
    async def test(harness: PoolHarness) -> None:
        busy = await harness.enter("a")
        engine = harness.starter.started[0]
        engine.release.clear()
        client = FakeClient(b"")
        answering = asyncio.create_task(busy.serve(client.scope, client.receive, client.send))
        await engine.entered.wait()
        await harness.pool.unload("a")
        loading = asyncio.create_task(harness.load(B))
        if max_loaded == 2:
            with pytest.raises(NoRoom):
                await harness.load(C, wait=False)
            assert len(harness.starter.started) == 1
            engine.release.set()
        await loading
        engine.release.set()
        await answering
        assert client.body == b"a:"
        assert loaded(harness) == ["b"]

    run(test, max_loaded=max_loaded)
