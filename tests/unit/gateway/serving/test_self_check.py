"""What serves is proved while it serves, behind live traffic, and what is found stays with it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from gateway.errors import SwitchInProgress, Unserved
from gateway.serving.self_check import SelfCheck
from stepserve.contract import ActivateRequest, ModelRef, ProveRequest, SlotState
from tests.eventually import eventually
from tests.unit.gateway.fakes import FakeEngine, model, reference, signature
from tests.unit.gateway.pool_harness import PoolHarness, scenario

BASE = model("a", signature())
TUNED = ModelRef(id="tuned", path="/models/tuned", digest="sha256:tuned", base=BASE)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@contextlib.asynccontextmanager
async def checking(harness: PoolHarness, period_s: float = 600.0) -> AsyncIterator[Clock]:
    clock = Clock()
    check = SelfCheck(lambda: harness.pool.serving, period_s, tick_s=0.001, clock_s=clock)
    running = asyncio.create_task(check.run())
    try:
        yield clock
    finally:
        running.cancel()
        await asyncio.wait({running})


async def activate(harness: PoolHarness, wanted: ModelRef) -> FakeEngine:
    await harness.pool.activate(ActivateRequest(model=wanted))
    engine = harness.starter.started[-1]
    engine.proofs.clear()
    return engine


async def some_ticks() -> None:
    for _ in range(5):
        await asyncio.sleep(0.002)


def active(harness: PoolHarness) -> SlotState:
    return next(state for state in harness.pool.snapshot().slots if state.active)


@scenario
async def test_a_model_that_turned_bad_is_found(harness: PoolHarness) -> None:
    engine = await activate(harness, model("a"))
    assert active(harness).health == "ok"
    async with checking(harness) as clock:
        await some_ticks()
        assert engine.proofs == []
        engine.turned_bad = True
        clock.now_s = 600.0
        await eventually(lambda: active(harness).health == "failed")
        assert engine.proofs == ["gentle"]
        assert engine.cleared == 1, "what it computed may not be finite and must not reach the next request"
        assert "the proof of the model that serves was not passed: NaN" in (active(harness).fault or "")
        engine.turned_bad = False
        clock.now_s = 1200.0
        await eventually(lambda: active(harness).health == "ok")
        assert active(harness).fault is None


@scenario
async def test_live_traffic_is_left_alone_for_a_period_longer(harness: PoolHarness) -> None:
    engine = await activate(harness, model("a"))
    engine.release.clear()
    asking = asyncio.create_task(harness.ask())
    await engine.entered.wait()
    async with checking(harness) as clock:
        await some_ticks()
        clock.now_s = 1199.0
        await some_ticks()
        assert engine.proofs == []
        clock.now_s = 1200.0
        await eventually(lambda: engine.proofs == ["gentle"])
    engine.release.set()
    await asking


@scenario
async def test_nothing_is_checked_by_itself_where_that_is_switched_off(harness: PoolHarness) -> None:
    engine = await activate(harness, model("a"))
    async with checking(harness, period_s=0.0) as clock:
        clock.now_s = 1e9
        await some_ticks()
        assert engine.proofs == []


@scenario
async def test_a_refused_answer_has_the_model_proved_soon(harness: PoolHarness) -> None:
    engine = await activate(harness, model("a"))
    async with checking(harness) as clock:
        await some_ticks()
        engine.not_finite = 2
        assert active(harness).health == "suspect"
        assert active(harness).fault == "2 answers since the last proof were refused: their numbers were not finite"
        clock.now_s = 30.0
        await eventually(lambda: active(harness).health == "ok")
        assert (engine.proofs, engine.cleared, engine.frozen) == (["gentle"], 1, False)
        engine.not_finite = 3
        await some_ticks()
        assert active(harness).health == "suspect", "however many there are, a proof is for every half a minute"


@scenario
async def test_a_switch_waits_for_a_proof_that_runs(harness: PoolHarness) -> None:
    """A reload would change the weights under it."""
    engine = await activate(harness, BASE)
    engine.may_prove.clear()
    async with checking(harness) as clock:
        await some_ticks()
        clock.now_s = 600.0
        await eventually(lambda: engine.proofs == ["gentle"])
        switching = asyncio.create_task(harness.pool.activate(ActivateRequest(model=model("b", signature()))))
        await eventually(lambda: harness.gate.slot is None)
        await some_ticks()
        assert engine.reloads == 0
        engine.may_prove.set()
        assert (await switching).method == "in_place"
        assert active(harness).health == "ok"


@scenario
async def test_a_proof_that_is_asked_for_takes_the_reference_that_comes_with_it(harness: PoolHarness) -> None:
    await activate(harness, model("a"))
    check = SelfCheck(lambda: harness.pool.serving, 0.0)
    right = await check.prove(ProveRequest(model=model("a"), reference=reference("a")))
    assert (right.kind, right.passed) == ("reference", True)
    wrong = await check.prove(ProveRequest(model=model("a"), reference=reference("b")))
    assert not wrong.passed
    assert active(harness).health == "failed"
    assert await harness.ask() == b"a:", "what serves goes on"


@scenario
async def test_an_adapter_is_proved_and_not_its_base(harness: PoolHarness) -> None:
    engine = await activate(harness, BASE)
    await activate(harness, TUNED)
    engine.cannot_take.add("tuned")
    proof = await SelfCheck(lambda: harness.pool.serving, 0.0).prove(ProveRequest(model=TUNED))
    assert not proof.passed
    states = {state.model.id: state.health for state in harness.pool.snapshot().slots}
    assert states == {"a": "ok", "tuned": "failed"}


@scenario
async def test_another_model_than_the_active_one_is_not_proved(harness: PoolHarness) -> None:
    check = SelfCheck(lambda: harness.pool.serving, 0.0)
    with pytest.raises(Unserved):
        await check.prove(ProveRequest(model=model("a")))
    await activate(harness, model("a"))
    with pytest.raises(SwitchInProgress):
        await check.prove(ProveRequest(model=model("b")))


@scenario
async def test_an_adapter_that_is_not_finite_leaves_nothing_in_the_cache(harness: PoolHarness) -> None:
    engine = await activate(harness, BASE)
    engine.cannot_take.add("tuned")
    result = await harness.pool.activate(ActivateRequest(model=TUNED))
    assert (result.status, result.rolled_back_to) == ("failed", "a")
    assert (engine.cleared, engine.frozen, engine.attached) == (1, False, [])
    assert await harness.ask() == b"a:"
