"""The pool over engines that start, fail and die as told."""

import asyncio

import pytest

from gateway.errors import EngineReloadFailed, MethodImpossible, NoRoom, SwitchInProgress, Unserved
from gateway.serving.self_check import SelfCheck
from gateway.serving.slot import Slot
from stepserve.contract import ActivateRequest, BatchItem, BatchSampling, ProveRequest
from tests.eventually import eventually
from tests.unit.gateway.fakes import model, reference, signature
from tests.unit.gateway.pool_harness import PoolHarness, scenario


@scenario
async def test_the_first_model(harness: PoolHarness) -> None:
    result = await harness.pool.activate(ActivateRequest(model=model("a")))
    assert (result.status, result.previous, result.method) == ("activated", None, "restart")
    assert await harness.ask() == b"a:"
    state = harness.pool.snapshot()
    assert state.active == model("a")
    assert [slot.phase for slot in state.slots] == ["ready"]


@scenario
async def test_requests_during_a_switch_wait_and_the_old_engine_ends_first(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=model("a")))
    harness.starter.may_start.clear()
    harness.starter.starting.clear()
    switching = asyncio.create_task(harness.pool.activate(ActivateRequest(model=model("b"))))
    await harness.starter.starting.wait()
    assert harness.starter.started[0].stopped
    asking = [asyncio.create_task(harness.ask()) for _ in range(5)]
    await eventually(lambda: harness.pool.snapshot().held == 5)
    assert harness.pool.snapshot().switching_to == "b"
    harness.starter.may_start.set()
    result = await switching
    assert (result.previous, result.id) == ("a", "b")
    assert await asyncio.gather(*asking) == [b"b:"] * 5


@scenario
async def test_a_request_inside_finishes_on_the_weights_it_began_with(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=model("a")))
    old = harness.starter.started[0]
    old.release.clear()
    asking = asyncio.create_task(harness.ask())
    await old.entered.wait()
    switching = asyncio.create_task(harness.pool.activate(ActivateRequest(model=model("b"))))
    await eventually(lambda: harness.gate.slot is None)
    assert not old.stopped
    old.release.set()
    assert await asking == b"a:"
    assert (await switching).in_flight == 1
    assert await harness.ask() == b"b:"


@scenario
async def test_a_drain_that_takes_too_long_changes_nothing(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=model("a")))
    old = harness.starter.started[0]
    old.release.clear()
    asking = asyncio.create_task(harness.ask())
    await old.entered.wait()
    result = await harness.pool.activate(ActivateRequest(model=model("b"), timeout_s=0.01))
    assert (result.status, result.rolled_back_to) == ("failed", "a")
    assert "1 requests still run" in (result.error or "")
    old.release.set()
    assert await asking == b"a:"
    assert await harness.ask() == b"a:"
    assert not old.stopped


@scenario
async def test_abort_does_not_wait(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=model("a")))
    old = harness.starter.started[0]
    old.release.clear()
    asking = asyncio.create_task(harness.ask())
    await old.entered.wait()
    result = await harness.pool.activate(ActivateRequest(model=model("b"), in_flight="abort"))
    assert result.status == "activated"
    assert b"aborted" in await asking


@pytest.mark.parametrize("fault", ["broken", "unsound"])
def test_a_bad_candidate_leaves_the_old_one_serving(fault: str) -> None:
    @scenario
    async def run(harness: PoolHarness) -> None:
        await harness.pool.activate(ActivateRequest(model=model("a")))
        getattr(harness.starter, fault).add("b")
        result = await harness.pool.activate(ActivateRequest(model=model("b")))
        assert (result.status, result.rolled_back_to) == ("failed", "a")
        assert await harness.ask() == b"a:"
        state = harness.pool.snapshot()
        assert state.active == model("a")
        assert [failed.id for failed in state.failed_loads] == ["b"]
        assert state.failed_loads[0].retry_in_s > 0
        assert [engine.stopped for engine in harness.starter.started if engine.ref.id == "b"] in ([], [True])

    run()


@scenario
async def test_when_neither_loads_the_old_one_is_tried_until_it_does(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=model("a")))
    harness.starter.broken |= {"a", "b"}
    result = await harness.pool.activate(ActivateRequest(model=model("b")))
    assert (result.status, result.rolled_back_to) == ("failed", None)
    with pytest.raises(Unserved):
        await harness.ask()
    harness.starter.broken.clear()
    await eventually(lambda: harness.gate.slot is not None)
    assert await harness.ask() == b"a:"


@scenario
async def test_a_dead_engine_is_replaced(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=model("a")))
    harness.starter.broken.add("a")
    harness.starter.started[0].dead = True
    await eventually(lambda: bool(harness.pool.snapshot().failed_loads))
    with pytest.raises(Unserved, match="does not start"):
        await harness.ask()
    harness.starter.broken.clear()
    await eventually(lambda: harness.gate.slot is not None)
    assert harness.starter.started[0].stopped
    assert await harness.ask() == b"a:"
    assert harness.pool.snapshot().failed_loads == []


@scenario
async def test_a_dead_engine_is_replaced_by_one_that_says_what_the_newest_reference_does(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=model("a")))
    before = harness.pool.serving
    check = SelfCheck(lambda: harness.pool.serving, 0.0)
    await check.prove(ProveRequest(model=model("a"), reference=reference("a")))
    harness.starter.started[0].dead = True
    await eventually(lambda: harness.pool.serving not in (None, before))
    now = harness.pool.serving
    assert now is not None
    assert now.soundness.proof is not None
    assert (now.soundness.proof.kind, now.reference) == ("reference", reference("a"))


@scenario
async def test_one_switch_at_a_time(harness: PoolHarness) -> None:
    harness.starter.may_start.clear()
    first = asyncio.create_task(harness.pool.activate(ActivateRequest(model=model("a"))))
    await harness.starter.starting.wait()
    with pytest.raises(SwitchInProgress, match="`a`"):
        await harness.pool.activate(ActivateRequest(model=model("b")))
    harness.starter.may_start.set()
    assert (await first).status == "activated"


@scenario
async def test_a_switch_goes_on_when_its_caller_leaves(harness: PoolHarness) -> None:
    harness.starter.may_start.clear()
    caller = asyncio.create_task(harness.pool.activate(ActivateRequest(model=model("a"))))
    await harness.starter.starting.wait()
    caller.cancel()
    harness.starter.may_start.set()
    await eventually(lambda: harness.gate.slot is not None)
    assert await harness.ask() == b"a:"


@scenario
async def test_what_cannot_be_done_is_said_at_once(harness: PoolHarness) -> None:
    with pytest.raises(MethodImpossible, match="in_place"):
        await harness.pool.activate(ActivateRequest(model=model("a"), method="in_place"))
    with pytest.raises(MethodImpossible, match="keep"):
        await harness.pool.activate(ActivateRequest(model=model("a"), in_flight="keep"))
    assert harness.pool.snapshot().switching_to is None


@scenario
async def test_an_engine_that_hangs_is_replaced(harness: PoolHarness) -> None:
    harness.watchdog.every_s = harness.watchdog.deadline_s = 0.001
    await harness.pool.activate(ActivateRequest(model=model("a")))
    stuck = harness.starter.started[0]
    stuck.release.clear()
    asking = asyncio.create_task(harness.ask())
    await eventually(lambda: len(harness.starter.started) == 2 and harness.gate.slot is not None)
    assert stuck.stopped
    assert await harness.ask() == b"a:"
    assert b"died" in await asking


@scenario
async def test_a_batch_in_an_engine_that_hangs_is_given_up(harness: PoolHarness) -> None:
    harness.watchdog.every_s = harness.watchdog.deadline_s = 0.02
    await harness.pool.activate(ActivateRequest(model=model("a")))
    harness.starter.started[0].release.clear()
    slot = harness.gate.slot
    assert slot is not None
    with pytest.raises(Unserved, match="died"):
        await slot.batch([BatchItem(prompt="1")], BatchSampling())
    await eventually(lambda: harness.gate.slot not in (None, slot))


@scenario
async def test_an_engine_is_replaced_when_the_second_question_is_never_answered(harness: PoolHarness) -> None:
    never = asyncio.Event()

    async def second(slot: Slot) -> None:
        if slot.engine is harness.starter.started[0]:
            await never.wait()

    harness.watchdog.every_s = harness.watchdog.deadline_s = 0.02
    harness.watchdog.second = second
    await harness.pool.activate(ActivateRequest(model=model("a")))
    await eventually(lambda: len(harness.starter.started) == 2 and harness.gate.slot is not None)
    assert harness.starter.started[0].stopped
    assert await harness.ask() == b"a:"


@scenario
async def test_an_answer_that_comes_late_is_asked_for_again(harness: PoolHarness) -> None:
    asked = 0

    async def late_at_first(slot: Slot) -> None:
        nonlocal asked
        asked += 1
        if asked % 5:
            raise TimeoutError

    harness.watchdog.every_s, harness.watchdog.deadline_s = 0.02, 30.0
    harness.watchdog.second = late_at_first
    await harness.pool.activate(ActivateRequest(model=model("a")))
    await eventually(lambda: asked >= 20)
    assert len(harness.starter.started) == 1


@scenario
async def test_an_engine_that_hangs_while_a_switch_waits_for_its_requests_holds_nobody_up(harness: PoolHarness) -> None:
    harness.watchdog.every_s = harness.watchdog.deadline_s = 0.05
    await harness.pool.activate(ActivateRequest(model=model("a")))
    harness.starter.started[0].release.clear()
    asking = asyncio.create_task(harness.ask())
    await harness.starter.started[0].entered.wait()
    result = await harness.pool.activate(ActivateRequest(model=model("b"), timeout_s=3600.0))
    assert result.status == "activated"
    assert b"died" in await asking
    assert harness.starter.started[0].stopped
    assert await harness.ask() == b"b:"


@scenario
async def test_an_engine_found_dead_before_a_reload_is_started_again(harness: PoolHarness) -> None:
    harness.watchdog.every_s = harness.watchdog.deadline_s = 0.05
    await harness.pool.activate(ActivateRequest(model=model("a", signature())))
    stuck = harness.starter.started[0]
    stuck.release.clear()
    asking = asyncio.create_task(harness.ask())
    await stuck.entered.wait()
    result = await harness.pool.activate(ActivateRequest(model=model("b", signature()), timeout_s=3600.0))
    assert (result.method, result.status, result.rolled_back_to) == ("in_place", "failed", "a")
    assert "died" in (result.error or "")
    assert (stuck.stopped, stuck.reloads) == (True, 0)
    assert b"died" in await asking
    assert await harness.ask() == b"a:"


@scenario
async def test_an_engine_that_takes_other_weights_need_not_answer_meanwhile(harness: PoolHarness) -> None:
    harness.watchdog.every_s = harness.watchdog.deadline_s = 0.001
    await harness.pool.activate(ActivateRequest(model=model("a", signature())))
    engine = harness.starter.started[0]
    engine.may_reload.clear()
    switching = asyncio.create_task(harness.pool.activate(ActivateRequest(model=model("b", signature()))))
    await engine.reloading.wait()
    engine.release.clear()
    for _ in range(50):
        await asyncio.sleep(harness.watchdog.tick_s)
    engine.release.set()
    engine.may_reload.set()
    assert (await switching).status == "activated"
    assert await harness.ask() == b"b:"
    assert harness.starter.started == [engine]


@scenario
async def test_nobody_counts_on_the_memory_of_an_engine_that_is_started_again(harness: PoolHarness) -> None:
    await harness.pool.activate(ActivateRequest(model=model("a", signature())))
    harness.starter.may_start.clear()
    harness.starter.started[0].dead = True
    harness.memory_of = lambda: 10_000 if harness.starter.started[-1].dead else 0  # what the dead engine had is free
    await eventually(lambda: harness.starter.asked == ["a", "a"])
    loading = asyncio.create_task(harness.load(model("b", signature())))
    for _ in range(100):
        await asyncio.sleep(0)
    assert harness.starter.asked == ["a", "a"]
    harness.starter.may_start.set()
    await eventually(lambda: harness.gate.slot is not None)
    assert await harness.ask() == b"a:"
    with pytest.raises(NoRoom):
        await loading


@scenario
async def test_two_that_measure_the_same_memory_do_not_both_take_it(harness: PoolHarness) -> None:
    """A switch that needs memory for an engine waits until a load that runs has taken its own."""
    harness.memory_of = lambda: 1200 if len([each for each in harness.starter.started if not each.stopped]) < 2 else 0
    await harness.pool.activate(ActivateRequest(model=model("a", signature())))
    harness.starter.may_start.clear()
    loading = asyncio.create_task(harness.load(model("b", signature())))
    await eventually(lambda: harness.starter.asked == ["a", "b"])
    other = model("c", signature(architecture="LlamaForCausalLM"))
    switching = asyncio.create_task(harness.pool.activate(ActivateRequest(model=other)))
    for _ in range(100):
        await asyncio.sleep(0)
    assert harness.starter.asked == ["a", "b"]
    harness.starter.may_start.set()
    await loading
    assert (await switching).status == "activated"
    assert harness.starter.started[1].stopped, "nobody used it, and its memory was needed"
    assert await harness.ask() == b"c:"


def test_a_defect_in_a_switch_costs_the_slot_and_not_the_pool() -> None:
    @scenario
    async def run(harness: PoolHarness) -> None:
        await harness.pool.activate(ActivateRequest(model=model("a", signature())))
        with pytest.raises(EngineReloadFailed, match="nobody thought of this"):
            await harness.pool.activate(ActivateRequest(model=model("defect", signature()), method="in_place"))
        await eventually(lambda: len(harness.starter.started) == 2 and harness.gate.slot is not None)
        assert await harness.ask() == b"a:"

    run()
