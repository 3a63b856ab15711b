"""Answers that are given again, and those that must not be."""

import asyncio
import json
from typing import Any

import pytest

from gateway.http.asgi import Receive, Scope, Send, read_body
from gateway.inference.dispatch import Dispatch
from gateway.inference.response_cache import KeptAnswer, ResponseCache, Use
from gateway.serving.gate import Gate
from gateway.serving.slot import Slot
from stepserve.request_id import key_id
from tests.unit.gateway.fakes import FakeClient, FakeEngine, model, router_over

CHAT = "/v1/chat/completions"
GREEDY: dict[str, Any] = {"model": "active", "messages": [], "temperature": 0}
USE = [(b"x-cache", b"use")]


class Counting(FakeEngine):
    """Each answer is another one."""

    asked = 0
    status = 200

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive, 100_000)
        self.asked += 1
        self.entered.set()
        await self.release.wait()
        headers = [(b"content-type", self.content_type), (b"x-own", b"1")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"%d" % self.asked})


class Desk:
    """One engine behind a dispatch that keeps answers."""

    def __init__(self, use: Use = "on_request", max_bytes: int = 10_000) -> None:
        self.engine = Counting(model("a"))
        self.engine.content_type = b"application/json"
        self.slot = Slot(model("a"), self.engine, 1.0)
        gate = Gate(1, 1.0)
        gate.open(self.slot)
        self.cache = ResponseCache(use, max_bytes)
        self.dispatch = Dispatch(router_over(gate), 100_000, cache=self.cache)

    async def ask(self, path: str = CHAT, headers: Any = USE, **body: Any) -> FakeClient:
        client = FakeClient(json.dumps(body).encode(), path)
        client.scope["method"] = "POST"
        client.scope["headers"] = headers
        await self.dispatch(client.scope, client.receive, client.send)
        return client


def _outcome(client: FakeClient) -> tuple[bytes, bytes | None]:
    return client.body, client.headers.get(b"x-cache")


async def test_the_same_request_is_answered_again_with_who_gave_the_answer() -> None:
    desk = Desk()
    assert _outcome(await desk.ask(**GREEDY)) == (b"1", b"miss")
    again = await desk.ask(temperature=0, user="x", messages=[], model="a")
    assert _outcome(again) == (b"1", b"hit")
    assert (again.headers[b"x-model-id"], again.headers[b"x-model-digest"]) == (b"a", b"sha256:a")
    assert again.headers[b"content-type"] == b"application/json"
    assert desk.engine.asked == 1
    assert _outcome(await desk.ask(**GREEDY, max_tokens=3)) == (b"2", b"miss")
    assert _outcome(await desk.ask(**GREEDY, headers=[])) == (b"3", None), "who does not ask for it has no part in it"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": []}),
        (CHAT, {"messages": [], "temperature": 0.7}),
        (CHAT, {"messages": [], "temperature": False}),
        (CHAT, {"messages": [], "temperature": 0, "stream": True}),
        ("/v1/responses", {"input": "x", "temperature": 0}),
    ],
)
async def test_what_depends_on_chance_or_is_streamed_is_not_kept(path: str, body: dict[str, Any]) -> None:
    desk = Desk("on")
    assert [_outcome(await desk.ask(path, **body)) for _ in range(2)] == [(b"1", None), (b"2", None)]


@pytest.mark.parametrize(
    ("path", "body"), [(CHAT, {"messages": [], "seed": 7, "temperature": 1}), ("/v1/embeddings", {"input": "x"})]
)
async def test_seeds_and_vectors_are_certain(path: str, body: dict[str, Any]) -> None:
    desk = Desk("on")
    assert [_outcome(await desk.ask(path, headers=[], **body)) for _ in range(2)] == [
        (b"1", b"miss"),
        (b"1", b"hit"),
    ]


async def test_a_switch_ends_what_was_kept_and_keeps_nothing_that_it_ran_under() -> None:
    desk = Desk()
    await desk.ask(**GREEDY)
    desk.slot.become(model("b"), None)
    desk.engine.release.clear()
    desk.engine.entered.clear()
    under_way = asyncio.create_task(desk.ask(**GREEDY))
    await desk.engine.entered.wait()
    desk.slot.become(model("c"), None)
    desk.slot.become(model("b"), None)
    desk.engine.release.set()
    assert _outcome(await under_way) == (b"2", b"miss")
    assert _outcome(await desk.ask(**GREEDY)) == (b"3", b"miss")
    assert _outcome(await desk.ask(**GREEDY)) == (b"3", b"hit")


async def test_a_refusal_is_not_kept() -> None:
    desk = Desk()
    desk.engine.status = 400
    for number in range(2):
        assert (await desk.ask(**GREEDY)).status == 400
        assert desk.engine.asked == number + 1


async def test_no_key_gets_what_another_asked_for() -> None:
    desk = Desk()
    for key, answer in (("one", b"1"), ("two", b"2"), ("one", b"1")):
        token = key_id.set(key)
        assert (await desk.ask(**GREEDY)).body == answer
        key_id.reset(token)


def test_the_room_is_bounded_and_the_oldest_leave() -> None:
    cache = ResponseCache("on", 1600)
    for number in range(40):
        cache.keep(b"%d" % number, KeptAnswer((), b"x" * 100))
        assert cache.size_bytes <= 1600
        assert cache.find(b"0") is not None, "it is used all the time"
    assert [number for number in range(40) if cache.find(b"%d" % number)] == [0, *range(25, 40)]
    cache.keep(b"large", KeptAnswer((), b"x" * 101))
    assert cache.find(b"large") is None, "one answer takes no room from all others"
    cache.keep(b"0", KeptAnswer((), b""))
    assert cache.size_bytes == 1500
