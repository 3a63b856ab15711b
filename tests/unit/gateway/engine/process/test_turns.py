"""Engines start and end one at a time."""

import asyncio

from gateway.engine.process.turns import one_at_a_time
from tests.unit.gateway.fakes import FakeEngine, FakeStarter, model


class SlowEnd(FakeEngine):
    """Its end takes until `may_end`."""

    def __init__(self) -> None:
        super().__init__(model("slow"))
        self.ending = asyncio.Event()
        self.may_end = asyncio.Event()

    async def shutdown(self) -> None:
        self.ending.set()
        await self.may_end.wait()
        await super().shutdown()


async def _end_waits() -> None:
    starter = FakeStarter()
    start = one_at_a_time(starter.start)
    first = await start(model("a"))
    starter.may_start.clear()
    starting = asyncio.ensure_future(start(model("b")))
    await starter.starting.wait()
    ending = asyncio.create_task(first.shutdown())
    for _ in range(10):
        await asyncio.sleep(0)
    assert not starter.started[0].stopped, "memory would come back while the other engine measures it"
    starter.may_start.set()
    await asyncio.gather(starting, ending)
    assert starter.started[0].stopped


def test_an_end_waits_for_a_start() -> None:
    asyncio.run(_end_waits())


async def _start_waits() -> None:
    starter, old = FakeStarter(), SlowEnd()

    async def start_old_first(ref: object) -> FakeEngine:
        return old if ref == model("slow") else await starter.start(model("b"))

    start = one_at_a_time(start_old_first)
    ending = asyncio.create_task((await start(model("slow"))).shutdown())
    await old.ending.wait()
    starting = asyncio.ensure_future(start(model("b")))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not starter.starting.is_set(), "it would count on memory that is not free yet"
    old.may_end.set()
    await asyncio.gather(starting, ending)
    assert old.stopped


def test_a_start_waits_for_an_end() -> None:
    asyncio.run(_start_waits())


async def _cancelled_start() -> None:
    starter = FakeStarter()
    start = one_at_a_time(starter.start)
    first = await start(model("a"))
    starter.may_start.clear()
    starting = asyncio.ensure_future(start(model("b")))
    await starter.starting.wait()
    starting.cancel()
    await first.shutdown()
    assert starter.started[0].stopped


def test_a_start_that_is_broken_off_holds_up_no_end() -> None:
    asyncio.run(_cancelled_start())
