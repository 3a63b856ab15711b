"""Models beside the active one: shared loads, room, and who leaves."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.errors import LoadFailed, ModelNotFound, NoRoom, NotLoaded
from gateway.http.asgi import until_disconnected
from gateway.serving.adapter import attach
from gateway.serving.failed_loads import FailedLoads
from gateway.serving.gate import Gate
from gateway.serving.residents import Residents
from gateway.serving.router import Router
from gateway.serving.served import Served
from gateway.serving.slot import Slot
from gateway.serving.switching.plan import Memory
from stepserve.contract import LoadRequest
from tests.unit.gateway.fakes import FakeClient, FakeEngine, Garage, Register, model, reference, residents_of, signature


class House:
    """A router with `active` behind its gate, and the registered models a, b and c."""

    def __init__(self, **changed: Any) -> None:
        self.garage = Garage()
        self.gate = Gate(8, 5.0)
        self.gate.open(Slot(model("active-one"), FakeEngine(model("active-one")), 1.0))
        self.register = Register(*(model(name, signature()) for name in "abc"))
        self.now_s = 0.0
        self.failed = FailedLoads(300.0, lambda: self.now_s)
        self.residents: Residents = residents_of(self.garage, failed=self.failed, **changed)
        self.router = Router(self.gate, self.residents, self.register, load_on_request=True, max_held=8)

    async def slot(self, name: str, client: FakeClient | None = None) -> Served:
        receive = (client or FakeClient(b"")).receive
        return await self.router.enter(name, lambda: until_disconnected(receive))

    def loaded(self) -> list[str]:
        return [slot.model.id for slot in self.residents.slots if slot.phase == "ready"]


def run(test: Callable[[House], Awaitable[None]], **changed: Any) -> None:
    async def scenario() -> None:
        house = House(**changed)
        try:
            async with asyncio.timeout(10.0):
                await test(house)
        finally:
            await house.residents.close()
        assert all(engine.stopped for engine in house.garage.started)

    asyncio.run(scenario())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


def test_a_request_loads_the_registered_model_it_names() -> None:
    async def test(house: House) -> None:
        assert (await house.slot("a")).model == model("a", signature())
        assert (await house.slot("active")).model.id == "active-one"
        assert (await house.slot("a")) is (await house.slot("a"))
        assert house.register.asked == ["a"], "a loaded model is found without asking anybody"

    run(test)


def test_a_model_that_is_not_registered_is_not_found() -> None:
    async def test(house: House) -> None:
        with pytest.raises(ModelNotFound, match="nowhere"):
            await house.slot("nowhere")

    run(test)


def test_every_name_that_could_be_asked_for_is_known() -> None:
    async def test(house: House) -> None:
        assert await house.router.names() == ["active-one", "active", "a", "b", "c"]
        loaded = await house.slot("b")
        assert isinstance(loaded, Slot)
        await attach(loaded, model("tuned"), None)
        house.router.load_on_request = False
        assert await house.router.names() == ["active-one", "active", "b", "tuned"]
        for name in await house.router.names():
            assert (await house.slot(name)).names
        house.gate.hold()
        assert await house.router.names() == ["active", "b", "tuned"]

    run(test)


def test_a_registered_model_is_refused_where_requests_load_nothing() -> None:
    async def test(house: House) -> None:
        house.router.load_on_request = False
        with pytest.raises(NotLoaded, match="set_active"):
            await house.slot("a")

    run(test)


def test_requests_for_one_model_share_its_load() -> None:
    async def test(house: House) -> None:
        house.garage.may_start.clear()
        asking = [asyncio.create_task(house.slot("a")) for _ in range(5)]
        await house.garage.starting.wait()
        house.garage.may_start.set()
        slots = await asyncio.gather(*asking)
        assert len(house.garage.started) == 1
        assert {id(slot) for slot in slots} == {id(slots[0])}

    run(test)


def test_a_client_that_leaves_does_not_stop_the_load_of_the_others() -> None:
    async def test(house: House) -> None:
        house.garage.may_start.clear()
        hasty, patient = FakeClient(b""), FakeClient(b"")
        asking = [asyncio.create_task(house.slot("a", each)) for each in (hasty, patient)]
        await hasty.receive()
        await patient.receive()
        await house.garage.starting.wait()
        hasty.left.set()
        await asyncio.wait({asking[0]})
        assert asking[0].exception() is not None
        house.garage.may_start.set()
        assert (await asking[1]).model.id == "a"

    run(test)


def test_the_idle_one_used_least_recently_leaves() -> None:
    async def test(house: House) -> None:
        first, second = await house.slot("a"), await house.slot("b")
        assert isinstance(first, Slot)
        assert isinstance(second, Slot)
        first.last_used_s, second.last_used_s = 2.0, 1.0
        await house.slot("c")
        assert sorted(house.loaded()) == ["a", "c"]
        assert house.garage.started[1].stopped

    run(test, max_loaded=3)


def test_a_busy_one_stays_until_it_is_idle() -> None:
    async def test(house: House) -> None:
        busy = await house.slot("a")
        engine = house.garage.started[0]
        engine.release.clear()
        client = FakeClient(b"")
        answering = asyncio.create_task(busy.serve(client.scope, client.receive, client.send))
        await engine.entered.wait()
        with pytest.raises(NoRoom):
            await house.residents.load(model("b", signature()), None, wait=False)
        asking = asyncio.create_task(house.slot("b"))
        await until(lambda: house.router.held == 1)
        assert not engine.stopped
        engine.release.set()
        assert (await asking).model.id == "b"
        await answering
        assert client.body == b"a:"
        assert engine.stopped

    run(test)


def test_waiting_for_a_busy_one_is_bounded() -> None:
    async def test(house: House) -> None:
        busy = await house.slot("a")
        engine = house.garage.started[0]
        engine.release.clear()
        client = FakeClient(b"")
        answering = asyncio.create_task(busy.serve(client.scope, client.receive, client.send))
        await engine.entered.wait()
        with pytest.raises(NoRoom, match="busy"):
            await house.slot("b")
        engine.release.set()
        await answering

    run(test, wait_s=0.01)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"max_loaded": 1}, "max_loaded_models is 1"),
        ({"memory": lambda: Memory(free_bytes=1000, engine_bytes=100)}, "a second engine needs"),
    ],
)
def test_no_room_is_said_at_once(changed: dict[str, Any], words: str) -> None:
    async def test(house: House) -> None:
        with pytest.raises(NoRoom, match=words):
            await house.slot("a")

    run(test, **changed)


@pytest.mark.parametrize("fault", ["broken", "unsound"])
def test_a_failed_load_is_left_alone_until_it_has_cooled_down(fault: str) -> None:
    async def test(house: House) -> None:
        getattr(house.garage, fault).add("a")
        with pytest.raises(LoadFailed):
            await house.slot("a")
        getattr(house.garage, fault).clear()
        started = len(house.garage.started)
        house.now_s = 299.0
        with pytest.raises(LoadFailed) as refused:
            await house.slot("a")
        assert refused.value.retry_after_s == 1.0
        assert len(house.garage.started) == started
        house.now_s = 301.0
        assert (await house.slot("a")).model.id == "a"

    run(test)


def test_a_model_that_says_something_else_than_its_reference_is_not_served() -> None:
    async def test(house: House) -> None:
        house.register.references["a"] = reference("b")
        with pytest.raises(LoadFailed, match="failed its proof"):
            await house.slot("a")
        assert house.loaded() == []

    run(test)


def test_one_that_died_is_loaded_again_when_asked_for() -> None:
    async def test(house: House) -> None:
        await house.slot("a")
        house.garage.started[0].dead = True
        house.residents.bury()
        assert house.loaded() == []
        await house.slot("a")
        assert len(house.garage.started) == 2

    run(test)


def test_other_content_under_the_same_id_replaces_what_is_loaded() -> None:
    async def test(house: House) -> None:
        old = await house.slot("a")
        changed = LoadRequest(model=model("a", signature()).model_copy(update={"digest": "sha256:new"}))
        await house.residents.load(changed.model, None)
        new = await house.slot("a")
        assert new is not old
        assert new.model.digest == "sha256:new"
        await until(lambda: house.garage.started[0].stopped)

    run(test)
