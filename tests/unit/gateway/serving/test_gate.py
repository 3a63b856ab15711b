import asyncio

import pytest

from gateway.errors import ModelNotFound, Unserved
from gateway.http.asgi import ClientDisconnected, until_disconnected
from gateway.serving.gate import Gate
from gateway.serving.served import Served
from gateway.serving.slot import Slot
from tests.unit.gateway.fakes import FakeClient, FakeEngine, model


def _slot(name: str) -> Slot:
    return Slot(model(name), FakeEngine(model(name)), 1.0)


async def _enter(gate: Gate, name: str | None, client: FakeClient | None = None) -> Served:
    asking = client or FakeClient()
    await asking.receive()
    return await gate.enter(name, lambda: until_disconnected(asking.receive))


@pytest.mark.parametrize("name", ["a", "active", "", None])
async def test_an_open_gate_knows_the_id_the_alias_and_no_name(name: str | None) -> None:
    gate, slot = Gate(1, 1.0), _slot("a")
    gate.open(slot)
    assert await _enter(gate, name) is slot


async def test_another_name_is_told_what_there_is() -> None:
    gate = Gate(1, 1.0)
    gate.open(_slot("a"))
    with pytest.raises(ModelNotFound, match=r"`b` is not served here.*`a`, `active`"):
        await _enter(gate, "b")


def test_a_new_gate_refuses_until_a_model_is_loaded() -> None:
    with pytest.raises(Unserved, match="starting") as caught:
        asyncio.run(_enter(Gate(1, 1.0), "active"))
    assert caught.value.retry_after_s


async def test_who_comes_during_a_switch_gets_the_new_slot() -> None:
    gate, old, new = Gate(8, 10.0), _slot("a"), _slot("b")
    gate.open(old)
    gate.hold()
    waiting = [asyncio.create_task(_enter(gate, "active")) for _ in range(3)]
    while gate.held < 3:
        await asyncio.sleep(0)
    gate.open(new)
    assert await asyncio.gather(*waiting) == [new, new, new]
    assert gate.held == 0


async def test_no_more_than_so_many_wait() -> None:
    gate = Gate(1, 10.0)
    gate.hold()
    first = asyncio.create_task(_enter(gate, "active"))
    while not gate.held:
        await asyncio.sleep(0)
    with pytest.raises(Unserved, match="1 requests wait"):
        await _enter(gate, "active")
    gate.open(_slot("a"))
    await first


async def test_nobody_waits_for_ever() -> None:
    gate = Gate(1, 0.01)
    gate.hold()
    with pytest.raises(Unserved, match="waited"):
        await _enter(gate, "active")
    assert gate.held == 0


async def test_who_leaves_while_waiting_frees_the_place() -> None:
    gate, client = Gate(1, 10.0), FakeClient()
    gate.hold()
    waiting = asyncio.create_task(_enter(gate, "active", client))
    while not gate.held:
        await asyncio.sleep(0)
    client.left.set()
    with pytest.raises(ClientDisconnected):
        await waiting
    assert gate.held == 0


async def test_a_switch_that_ends_with_nothing_refuses_who_waited() -> None:
    gate = Gate(1, 10.0)
    gate.hold()
    waiting = asyncio.create_task(_enter(gate, "active"))
    while not gate.held:
        await asyncio.sleep(0)
    gate.down("neither loads", 10.0)
    with pytest.raises(Unserved, match="neither loads"):
        await waiting


async def test_a_dead_slot_is_not_handed_out() -> None:
    gate, engine = Gate(1, 1.0), FakeEngine(model("a"))
    gate.open(Slot(model("a"), engine, 1.0))
    engine.dead = True
    with pytest.raises(Unserved, match="died"):
        await _enter(gate, "a")
