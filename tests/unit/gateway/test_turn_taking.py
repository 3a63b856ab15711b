"""Models that share one place, through the real pool on a virtual clock: who is loaded when, and what that costs."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.errors import NoRoom
from gateway.http.asgi import ClientDisconnected, Receive, Scope, Send, replay, until_disconnected
from gateway.serving.preload import Preload
from stepserve.contract import ActivateRequest, LoadRequest, ModelRef
from tests.unit.gateway.fakes import FakeClient, FakeEngine, FakeStarter, Register, model, signature
from tests.unit.gateway.pool_harness import PoolHarness
from tests.unit.gateway.serving.test_turns import first_come, mixed
from tests.unit.gateway.virtual_clock import VirtualLoop

A, B, C = (model(name, signature()) for name in "abc")
LOAD_S = 8.0
BOUND_S = 30.0
LOOK_S = 0.2  # the pool looks so often whether a slot is idle, and a few things follow one another


class PacedEngine(FakeEngine):
    """A request takes as many seconds as its body says."""

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(float((await receive())["body"]))
        assert not self.stopped, "an engine was ended under a request"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self.ref.id.encode()})


class PacedStarter(FakeStarter):
    async def start(self, ref: ModelRef) -> FakeEngine:
        self.asked.append(ref.id)
        await asyncio.sleep(LOAD_S)
        engine = PacedEngine(ref)
        self.started.append(engine)
        return engine


class TracedPool(PoolHarness):
    """`active-one` is active and a, b and c have one place. `waits_s` and `served`: of each request as it began."""

    def __init__(self, **settings: Any) -> None:
        settings = {"load_wait_s": 300.0, "turn_wait_s": BOUND_S, "poll_s": 0.25} | settings
        super().__init__(starter=PacedStarter(), **settings)
        self.free_bytes = 10_000
        self.register = self.router.directory = Register(A, B, C)
        self.waits_s: list[float] = []
        self.served: list[str] = []

    @property
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def request(self, name: str, takes_s: float, client: FakeClient | None = None) -> None:
        client, came_s = client or FakeClient(), self.now
        await client.receive()
        slot = await self.router.enter(name, lambda: until_disconnected(client.receive))
        self.waits_s.append(self.now - came_s)
        self.served.append(name)
        await slot.serve(client.scope, replay(str(takes_s).encode(), client.receive), client.send)
        assert client.body == name.encode()

    async def trace(self, requests: list[tuple[float, str, float]]) -> None:
        began_s = self.now

        async def one(at_s: float, name: str, takes_s: float) -> None:
            await asyncio.sleep(began_s + at_s - self.now)
            await self.request(name, takes_s)

        async with asyncio.TaskGroup() as asking:
            for request in requests:
                asking.create_task(one(*request))

    async def loaded(self, name: str) -> None:
        while [slot.model.id for slot in self.pool.loaded.others] != [name]:
            await asyncio.sleep(0.05)


def run(test: Callable[[TracedPool], Awaitable[None]], **settings: Any) -> None:
    async def prepared() -> None:
        async with TracedPool(**settings).open() as traced_pool:
            assert isinstance(traced_pool, TracedPool)
            await traced_pool.pool.activate(ActivateRequest(model=model("active-one", signature(tensors_sha="other"))))
            traced_pool.starter.asked.clear()
            await test(traced_pool)

    loop = VirtualLoop()
    try:
        loop.run_until_complete(prepared())
    finally:
        loop.close()


def test_a_b_a_a_c_is_served_as_a_a_a_b_c() -> None:
    async def test(traced_pool: TracedPool) -> None:
        await traced_pool.trace([(0.0, "a", 3.0), (0.1, "b", 1.0), (0.2, "a", 3.0), (9.0, "a", 3.0), (9.1, "c", 1.0)])
        assert traced_pool.served == [*"aaabc"]
        assert traced_pool.starter.asked == [*"abc"]

    run(test)


@pytest.mark.parametrize("turn_wait_s", [30.0, 60.0])
def test_mixed_traffic_needs_a_third_of_the_loads_and_keeps_the_bound(turn_wait_s: float) -> None:
    requests = mixed(1.0, 300.0, {"a": 3, "b": 1, "c": 1})

    async def test(traced_pool: TracedPool) -> None:
        await traced_pool.trace(requests)
        assert 3 * len(traced_pool.starter.asked) <= first_come(requests)
        assert max(traced_pool.waits_s) <= turn_wait_s + LOAD_S + LOOK_S

    run(test, turn_wait_s=turn_wait_s)


def test_clients_that_ask_one_thing_after_the_other_swap_no_models_at_each() -> None:
    async def test(traced_pool: TracedPool) -> None:
        async def one(name: str) -> None:
            for _ in range(30):
                await traced_pool.request(name, 1.0)
                await asyncio.sleep(0.5)

        await asyncio.gather(one("a"), one("b"))
        assert len(traced_pool.starter.asked) <= 60 / 10
        assert max(traced_pool.waits_s) <= BOUND_S + LOAD_S + LOOK_S

    run(test)


def test_a_model_that_is_always_asked_starves_nobody() -> None:
    async def test(traced_pool: TracedPool) -> None:
        hot = asyncio.create_task(traced_pool.trace([(n * 0.5, "a", 2.0) for n in range(200)]))
        await asyncio.sleep(20.0)
        came_s = traced_pool.now
        await traced_pool.request("b", 0.0)
        assert traced_pool.now - came_s <= BOUND_S + LOAD_S + LOOK_S
        await hot
        assert traced_pool.starter.asked == [*"aba"]
        assert max(traced_pool.waits_s) <= BOUND_S + LOAD_S + LOOK_S

    run(test)


def test_a_model_whose_turn_was_to_end_goes_on_when_the_client_leaves_who_waited() -> None:
    async def test(traced_pool: TracedPool) -> None:
        long = asyncio.create_task(traced_pool.request("a", 100.0))
        await traced_pool.loaded("a")
        client = FakeClient()
        other = asyncio.create_task(traced_pool.request("b", 0.0, client))
        await asyncio.sleep(BOUND_S + 1.0)
        late = asyncio.create_task(traced_pool.request("a", 0.0))
        await asyncio.sleep(1.0)
        assert not late.done(), "it is the turn of b"
        assert [slot.phase for slot in traced_pool.pool.snapshot().slots] == ["ready", "draining"]
        client.left.set()
        await late
        with pytest.raises(ClientDisconnected):
            await other
        await long
        assert traced_pool.starter.asked == ["a"]
        assert [slot.phase for slot in traced_pool.pool.snapshot().slots] == ["ready", "ready"]

    run(test)


def test_a_switch_goes_before_all_who_wait() -> None:
    async def test(traced_pool: TracedPool) -> None:
        long = asyncio.create_task(traced_pool.request("a", 100.0))
        await traced_pool.loaded("a")
        other = asyncio.create_task(traced_pool.request("b", 0.0))
        await asyncio.sleep(BOUND_S + 1.0)
        result = await traced_pool.pool.activate(ActivateRequest(model=A))
        assert (result.status, result.method) == ("activated", "blue_green")
        await traced_pool.request("a", 0.0)
        await other
        await long
        assert traced_pool.starter.asked == [*"ab"]

    run(test)


def test_a_job_comes_after_requests_and_ends_no_models_turn() -> None:
    async def test(traced_pool: TracedPool) -> None:
        long = asyncio.create_task(traced_pool.request("a", 50.0))
        await traced_pool.loaded("a")
        with pytest.raises(NoRoom):
            await traced_pool.load(C, wait=False)
        other = asyncio.create_task(traced_pool.request("b", 60.0))
        await asyncio.sleep(10.0)
        with pytest.raises(NoRoom, match="requests for others wait"):
            await traced_pool.load(C, wait=False)
        await long
        await other
        await traced_pool.load(C, wait=False)
        assert traced_pool.starter.asked == [*"abc"]

    run(test)


def test_who_waited_too_long_is_told_and_the_others_go_on_waiting() -> None:
    async def test(traced_pool: TracedPool) -> None:
        long = asyncio.create_task(traced_pool.request("a", 60.0))
        await traced_pool.loaded("a")
        first = asyncio.create_task(traced_pool.request("b", 0.0))
        await asyncio.sleep(30.0)
        second = asyncio.create_task(traced_pool.request("b", 0.0))
        with pytest.raises(NoRoom, match="`b` was not loaded within 40 s"):
            await first
        await second
        await long

    run(test, load_wait_s=40.0)


def test_a_model_leaves_after_its_keep_alive() -> None:
    async def test(traced_pool: TracedPool) -> None:
        await traced_pool.load(A)
        await asyncio.sleep(50.0)
        await traced_pool.request("a", 20.0)
        await asyncio.sleep(59.0)
        assert [slot.model.id for slot in traced_pool.pool.loaded.others] == ["a"]
        await asyncio.sleep(2.0)
        assert not traced_pool.pool.loaded.others
        assert traced_pool.starter.started[1].stopped

    run(test, keep_alive_s=60.0)


@pytest.mark.parametrize(("registered_s", "stays"), [(None, False), (0.0, False), (300.0, True), (-1.0, True)])
def test_a_models_own_keep_alive_counts_before_the_settings(registered_s: float | None, stays: bool) -> None:
    async def test(traced_pool: TracedPool) -> None:
        await traced_pool.pool.load(LoadRequest(model=A, keep_alive_s=registered_s))
        await traced_pool.request("a", 1.0)
        await asyncio.sleep(100.0)
        assert bool(traced_pool.pool.loaded.others) == stays

    run(test, keep_alive_s=60.0)


def test_whoever_had_a_model_loaded_may_come_before_it_leaves_again() -> None:
    async def test(traced_pool: TracedPool) -> None:
        await traced_pool.load(A)
        await asyncio.sleep(20.0)
        await traced_pool.request("a", 1.0)
        await asyncio.sleep(1.0)
        assert not traced_pool.pool.loaded.others
        assert traced_pool.starter.asked == ["a"]

    run(test, keep_alive_s=0.0)


def test_what_is_loaded_at_the_start_takes_nobodys_place() -> None:
    async def test(traced_pool: TracedPool) -> None:
        preload = Preload(["a", "b", "nope"], traced_pool.pool, traced_pool.register, asyncio.Event().wait)
        await preload.run()
        assert traced_pool.starter.asked == ["a"]
        assert preload.outcomes["a"] == "loaded"
        assert "2 models are loaded (max_loaded_models)" in preload.outcomes["b"]
        assert "no model is registered as 'nope'" in preload.outcomes["nope"]

    run(test)


def test_what_a_client_says_counts_until_the_model_has_left() -> None:
    async def test(traced_pool: TracedPool) -> None:
        await traced_pool.pool.load(LoadRequest(model=A, keep_alive_s=-1.0))
        await traced_pool.request("a", 1.0)
        traced_pool.pool.keep_alive("a", 10.0)
        await asyncio.sleep(11.0)
        assert not traced_pool.pool.loaded.others
        await traced_pool.pool.load(LoadRequest(model=A, keep_alive_s=-1.0))
        await asyncio.sleep(1000.0)
        with pytest.raises(NoRoom, match=r"a is to stay \(keep_alive\)"):
            await traced_pool.request("b", 0.0)

    run(test)


def test_a_model_that_was_active_is_kept_as_it_is_registered() -> None:
    async def test(traced_pool: TracedPool) -> None:
        await traced_pool.load(B)
        await traced_pool.pool.activate(ActivateRequest(model=A, keep_alive_s=10.0))
        await asyncio.sleep(100.0)
        assert traced_pool.pool.loaded.serving is not None
        assert traced_pool.pool.loaded.serving.model == A
        await traced_pool.request("a", 1.0)
        await traced_pool.load(B)
        await traced_pool.pool.activate(ActivateRequest(model=B))
        await asyncio.sleep(1.0)
        assert [slot.model.id for slot in traced_pool.pool.loaded.others] == ["a"]
        await asyncio.sleep(10.0)
        assert not traced_pool.pool.loaded.others

    run(test)
