"""The watchdog's question about grammars: whether those wait for ever where others are answered."""

import asyncio

import pytest

from gateway.serving.watchdog import Watchdog, grammars_answer
from stepserve.contract import ActivateRequest, ModelRef
from tests.unit.gateway.fakes import FakeEngine
from tests.unit.gateway.pool_harness import PoolHarness

PATIENCE_S = 0.05


def engine() -> FakeEngine:
    return FakeEngine(ModelRef(id="m", path="/m", digest="d"))


def test_an_engine_that_answers_both_is_well() -> None:
    asyncio.run(grammars_answer(engine(), PATIENCE_S))


async def test_an_engine_whose_grammars_alone_wait_for_ever_is_not() -> None:
    stuck = engine()
    stuck.compiles.clear()
    with pytest.raises(TimeoutError):
        await grammars_answer(stuck, PATIENCE_S)


@pytest.mark.parametrize("before", [True, False])
async def test_an_engine_that_gives_no_plain_token_either_is_another_questions_matter(before: bool) -> None:
    """It is full or hangs, from the beginning or from when the grammar is asked for."""
    full = engine()
    full.compiles.clear()
    if before:
        full.release.clear()
    else:
        asyncio.get_running_loop().call_later(PATIENCE_S / 2, full.release.clear)
    await grammars_answer(full, PATIENCE_S)


async def test_an_engine_whose_grammars_wait_for_ever_is_started_again() -> None:
    harness = PoolHarness()
    harness.watchdog.second = Watchdog.within(4 * PATIENCE_S).second
    harness.watchdog.every_s, harness.watchdog.deadline_s = PATIENCE_S, 6 * PATIENCE_S
    async with harness.open():
        await harness.pool.activate(ActivateRequest(model=ModelRef(id="m", path="/m", digest="d")))
        first = harness.starter.started[0]
        first.compiles.clear()
        async with asyncio.timeout(240):
            while len(harness.starter.started) < 2:
                await asyncio.sleep(PATIENCE_S)
        assert first.stopped
