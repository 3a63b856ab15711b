import asyncio
import json

from gateway.serving.slot import Slot
from tests.unit.gateway.fakes import FakeClient, FakeEngine, model

STREAM = b"text/event-stream; charset=utf-8"


async def test_an_answer_carries_the_slots_identity() -> None:
    slot, client = Slot(model("a"), FakeEngine(model("a")), 1.0), FakeClient(b"hello")
    await slot.serve(client.scope, client.receive, client.send)
    assert client.status == 200
    assert client.body == b"a:hello"
    assert client.headers[b"x-model-id"] == b"a"
    assert client.headers[b"x-model-digest"] == b"sha256:a"
    assert slot.in_flight == 0


async def test_a_slot_is_empty_when_the_last_request_has_left() -> None:
    engine = FakeEngine(model("a"))
    engine.release.clear()
    slot, client = Slot(model("a"), engine, 1.0), FakeClient()
    serving = asyncio.create_task(slot.serve(client.scope, client.receive, client.send))
    await engine.entered.wait()
    assert slot.in_flight == 1
    assert not await slot.emptied(0.01)
    engine.release.set()
    assert await slot.emptied(1.0)
    await serving


async def test_an_aborted_request_is_told_so() -> None:
    engine = FakeEngine(model("a"))
    engine.release.clear()
    slot, client = Slot(model("a"), engine, 1.0), FakeClient()
    serving = asyncio.create_task(slot.serve(client.scope, client.receive, client.send))
    await engine.entered.wait()
    assert await slot.abort_requests() == 1
    await serving
    assert client.status == 503
    assert "aborted by a switch" in json.loads(client.body)["error"]["message"]


async def test_an_aborted_stream_ends_as_an_error_and_not_as_done() -> None:
    engine = FakeEngine(model("a"))
    engine.content_type = STREAM
    engine.release.clear()
    slot, client = Slot(model("a"), engine, 1.0), FakeClient()
    serving = asyncio.create_task(slot.serve(client.scope, client.receive, client.send))
    await engine.entered.wait()
    await slot.abort_requests()
    await serving
    events = client.body.decode().strip().split("\n\n")
    assert events[0] == "data: one"
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "service_unavailable"
    assert b"[DONE]" not in client.body


async def test_a_failure_of_a_dead_engine_is_a_503_and_not_a_500() -> None:
    engine = FakeEngine(model("a"))
    engine.status = 500
    engine.release.clear()
    slot, client = Slot(model("a"), engine, 1.0), FakeClient()
    serving = asyncio.create_task(slot.serve(client.scope, client.receive, client.send))
    await engine.entered.wait()
    engine.dead = True
    engine.release.set()
    await serving
    assert client.status == 503
    assert client.headers[b"retry-after"]


async def test_a_failure_of_a_living_engine_passes_as_it_is() -> None:
    engine = FakeEngine(model("a"))
    engine.status = 500
    slot, client = Slot(model("a"), engine, 1.0), FakeClient()
    await slot.serve(client.scope, client.receive, client.send)
    assert client.status == 500


class Clearing(FakeEngine):
    """Clears its cache when it may."""

    def __init__(self) -> None:
        super().__init__(model("a"))
        self.begun = asyncio.Event()
        self.may_clear = asyncio.Event()

    async def clear_cache(self) -> None:
        self.begun.set()
        await self.may_clear.wait()
        await super().clear_cache()


async def test_a_reload_waits_until_the_cache_is_clear() -> None:
    """Else the frozen requests would go on in the middle of it, with a mixture of weights."""
    engine = Clearing()
    slot = Slot(model("a"), engine, 1.0)

    async def reload() -> int:
        async with slot.reloading():
            return engine.cleared

    cleansing = asyncio.create_task(slot.cleanse())
    await engine.begun.wait()
    reloading = asyncio.create_task(reload())
    engine.may_clear.set()
    assert await reloading == 1
    await cleansing


async def test_who_waits_to_clear_the_cache_does_not_let_frozen_requests_go_on() -> None:
    engine = Clearing()
    slot = Slot(model("a"), engine, 1.0)
    first = asyncio.create_task(slot.cleanse())
    await engine.begun.wait()
    freezing = asyncio.create_task(slot.freeze())
    second = asyncio.create_task(slot.cleanse())
    await asyncio.sleep(0)
    engine.may_clear.set()
    await asyncio.gather(first, freezing, second)
    assert engine.frozen
    await slot.thaw()
    assert not engine.frozen


async def test_nobody_clears_the_cache_during_a_reload() -> None:
    engine = FakeEngine(model("a"))
    slot = Slot(model("a"), engine, 1.0)
    async with slot.reloading():
        await engine.freeze()
        await slot.cleanse()
        assert (engine.frozen, engine.cleared) == (True, 0)
    await slot.cleanse()
    assert (engine.frozen, engine.cleared) == (False, 1)
