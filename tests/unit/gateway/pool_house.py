"""A pool over engines that start, fail and die as told, and the requests that go through its gate."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from gateway.http.asgi import replay, until_disconnected
from gateway.serving.gate import Gate
from gateway.serving.pool import Pool
from gateway.serving.switching.plan import Memory
from gateway.serving.watchdog import Watchdog
from tests.unit.gateway.fakes import FakeClient, Garage


class House:
    """`free_bytes` is the memory for a further engine, or what `memory_of` says."""

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
        client = FakeClient(b"")
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
