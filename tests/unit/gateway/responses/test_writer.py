"""What is brought to control, and what is not taken for it."""

import asyncio
import json
from typing import Any

import httpx
import msgspec
import pytest

from gateway.errors import ControlDown
from gateway.responses.writer import ResponseWriter
from gateway.sidecar.control_link import ControlProxy
from stepserve.stored_responses import MOST_VALUES, KeptResponse


class Control(ControlProxy):
    """Answers as told, one after the other; at last with 200. None: it does not answer."""

    def __init__(self, *statuses: int | None) -> None:
        self.statuses = list(statuses)
        self.batches: list[list[str]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def request(self, method: str, path: str, body: object = None, headers: Any = None) -> httpx.Response:
        await self.may_answer.wait()
        status = self.statuses.pop(0) if self.statuses else 200
        if status is None:
            raise ControlDown
        kept = json.loads(msgspec.json.encode(body))["responses"]
        if status == 200:
            self.batches.append([each["response"]["id"] for each in kept])
        return httpx.Response(status, json={})


def response(name: str, **fields: Any) -> KeptResponse:
    return KeptResponse(owner="k", response={"id": name, **fields}, input=[])


async def _running(writer: ResponseWriter, *names: str) -> None:
    """Runs it until all of these are settled."""
    running = asyncio.create_task(writer.run())
    async with asyncio.timeout(240):
        for name in names:
            await writer.settled("k", name, 10)
    running.cancel()
    await asyncio.wait({running})


@pytest.mark.parametrize("trouble", [None, 503, 507])
async def test_what_control_cannot_take_now_is_brought_again(trouble: int | None) -> None:
    control = Control(trouble)
    writer = ResponseWriter(control)
    assert writer.keep(response("a"))
    assert writer.keep(response("b"))
    await _running(writer, "a", "b")
    assert control.batches == [["a", "b"]]


async def test_what_control_refuses_holds_up_nothing() -> None:
    control = Control(422)
    writer = ResponseWriter(control)
    writer.keep(response("a"))
    await _running(writer, "a")
    writer.keep(response("b"))
    await _running(writer, "b")
    assert control.batches == [["b"]]


async def test_one_that_control_cannot_keep_costs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    control = Control(500, 200, 422)
    writer = ResponseWriter(control)
    for name in ("a", "odd", "b"):
        assert writer.keep(response(name))
    await _running(writer, "a", "odd", "b")
    assert writer.keep(response("c"))
    assert writer.keep(response("d"))
    await _running(writer, "c", "d")
    assert control.batches == [["a"], ["b"], ["c", "d"]]
    assert "1 responses are not kept: control answers 422" in caplog.text


def test_where_nobody_would_ever_take_them_none_waits() -> None:
    writer = ResponseWriter(Control(), keeps=False)
    assert (writer.has_room, writer.keep(response("a"))) == (False, False)


async def test_only_so_much_waits() -> None:
    control = Control()
    writer = ResponseWriter(control, max_waiting_bytes=500)
    assert writer.keep(response("a", text="x" * 600))
    assert [writer.has_room, writer.keep(response("b"))] == [False, False]
    await _running(writer, "a")
    assert [writer.has_room, writer.keep(response("c"))] == [True, True]


async def test_an_answer_that_control_would_not_read_is_not_taken() -> None:
    assert not ResponseWriter(Control()).keep(response("a", numbers=[0] * MOST_VALUES))


async def test_who_names_an_answer_waits_until_it_is_kept_but_not_for_ever() -> None:
    control = Control()
    control.may_answer.clear()
    writer = ResponseWriter(control)
    writer.keep(response("a").model_copy(update={"conversation_id": "conv"}))
    running = asyncio.create_task(writer.run())
    await writer.settled("k", "b", 10)
    await writer.settled("other", "a", 10)
    with pytest.raises(ControlDown):
        await writer.settled("k", "conv", 0.01)
    control.may_answer.set()
    async with asyncio.timeout(240):
        await writer.settled("k", "conv", 10)
        await writer.settled("k", "a", 10)
    running.cancel()
    await asyncio.wait({running})


async def test_what_waits_is_brought_at_the_end() -> None:
    control = Control(None)
    writer = ResponseWriter(control)
    running = asyncio.create_task(writer.run())
    writer.keep(response("a"))
    async with asyncio.timeout(240):
        while control.statuses:  # until the first try has failed
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.wait({running})
    assert control.batches == [["a"]]
