"""A pool over engines that start, fail and die as told, and the requests that go through its gate."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from gateway.http.asgi import replay, until_disconnected
from gateway.serving.failed_loads import FailedLoads
from gateway.serving.gate import Gate
from gateway.serving.memory import Memory
from gateway.serving.pool import Pool
from gateway.serving.router import Router
from gateway.serving.served import Served
from gateway.serving.slot import StartEngine
from gateway.serving.watchdog import Watchdog
from stepserve.contract import LoadRequest, ModelRef
from tests.unit.gateway.fakes import FakeClient, FakeStarter, FreeBytes, Register


class PoolHarness:
    """`free_bytes` is the memory for a further engine, or what `memory_of` says; `now_s` the clock of failed loads;
    `tried` a canary's candidate.
    """

    def __init__(
        self,
        *,
        max_loaded: int | None = 2,
        load_wait_s: float = 5.0,
        turn_wait_s: float = 30.0,
        keep_alive_s: float | None = None,
        poll_s: float = 0.001,
        starter: FakeStarter | None = None,
    ) -> None:
        self.starter = starter or FakeStarter()
        self.gate = Gate(64, 10.0)
        self.free_bytes = 0
        self.memory_of: Callable[[], int] = lambda: self.free_bytes
        self.watchdog = Watchdog()
        self.now_s = 0.0
        self.tried: Callable[[], ModelRef | None] = lambda: None
        self.pool = Pool(
            self.gate,
            self.start_engine(),
            0.01,
            self.memory(),
            max_loaded=max_loaded,
            load_wait_s=load_wait_s,
            turn_wait_s=turn_wait_s,
            keep_alive_s=keep_alive_s,
            poll_s=poll_s,
            first_delay_s=0.001,
            watchdog=self.watchdog,
            failed=FailedLoads(300.0, lambda: self.now_s),
            tried=self._tried,
        )
        self.register = Register()
        self.router = Router(self.gate, self.pool, self.register, load_on_request=True, max_held=64)

    def memory(self) -> Memory:
        return FreeBytes(self._free_bytes)

    def _free_bytes(self) -> int:
        return self.memory_of()

    def start_engine(self) -> StartEngine:
        return self.starter.start

    def _tried(self) -> ModelRef | None:
        return self.tried()

    async def enter(self, name: str, client: FakeClient | None = None) -> Served:
        """What answers a request that names this model."""
        receive = (client or FakeClient(b"")).receive
        return await self.router.enter(name, lambda: until_disconnected(receive))

    async def load(self, model: ModelRef, *, wait: bool = True) -> None:
        await self.pool.load(LoadRequest(model=model, wait=wait))

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["PoolHarness"]:
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


def scenario(
    test: Callable[[PoolHarness], Awaitable[None]], make: Callable[[], PoolHarness] = PoolHarness
) -> Callable[[], None]:
    async def run() -> None:
        async with make().open() as harness, asyncio.timeout(240):
            await test(harness)

    def wrapped() -> None:
        asyncio.run(run())

    wrapped.__name__ = getattr(test, "__name__", "scenario")
    return wrapped
