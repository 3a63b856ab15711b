"""Exchanges on their way to control: what becomes of each, and that waiting ones are bounded."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client import REGISTRY

from gateway.errors import ControlDown
from gateway.http.asgi import Message, Receive, Scope, Send
from gateway.http.tracked_send import tracked
from gateway.inference.response_cache import Recorder
from gateway.request.body import RequestBody
from gateway.request.context import RequestContext
from gateway.sidecar.control_link import ControlProxy
from gateway.traffic.redactor import Redactor
from gateway.traffic.sampled import Sampled
from gateway.traffic.writer import Exchange, TrafficWriter
from stepserve.request_id import key_id
from stepserve.traffic import TrafficSettings
from tests.unit.gateway.fakes import FakeClient

ON = TrafficSettings(on=True, max_exchange_bytes=1024)


class Control(ControlProxy):
    """Takes what it is brought, once it may. `deaths`: how often it dies when it has taken something."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []
        self.deaths = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def request(self, method: str, path: str, body: object = None, headers: Any = None) -> httpx.Response:
        await self.may_answer.wait()
        self.kept += json.loads(msgspec.json.encode(body))["exchanges"]
        if self.deaths:
            self.deaths -= 1
            raise ControlDown
        return httpx.Response(200, json={})


def exchange(name: str, answer: str = "four", question: str = "2+2?", held_bytes: int = 0) -> Exchange:
    body = json.dumps({"messages": [{"role": "user", "content": question}]})
    content = json.dumps({"choices": [{"message": {"content": answer}, "finish_reason": "stop"}]})
    path = "/v1/chat/completions"
    return Exchange("k", name, path, "choices", "m", "d", body.encode(), content.encode(), False, held_bytes)


def outcome(name: str) -> float:
    return REGISTRY.get_sample_value("stepserve_traffic_exchanges_total", {"outcome": name}) or 0.0


def with_writer(story: Callable[[TrafficWriter, Control], Any], **options: Any) -> None:
    async def scenario() -> None:
        control = Control()
        writer = TrafficWriter(control, Redactor(ON), ON, **options)
        running = asyncio.create_task(writer.run())
        async with asyncio.timeout(240):
            await story(writer, control)
        running.cancel()
        await asyncio.wait({running})

    asyncio.run(scenario())


def test_an_exchange_is_brought_redacted() -> None:
    async def story(writer: TrafficWriter, control: Control) -> None:
        writer.take(exchange("r1", "ask jane@example.org", "mail joe@example.org"))
        await writer.settled()
        (kept,) = control.kept
        assert (kept["owner"], kept["request_id"], kept["answer"]) == ("k", "r1", "ask [redacted]")
        assert kept["prompt"] == [{"role": "user", "content": "mail [redacted]"}]

    with_writer(story)


@pytest.mark.parametrize(
    ("name", "taken"),
    [("too_large", exchange("r", "x" * 2000)), ("not_text", exchange("r", "")), ("kept", exchange("r"))],
)
def test_each_outcome_is_counted(name: str, taken: Exchange) -> None:
    async def story(writer: TrafficWriter, control: Control) -> None:
        before = outcome(name)
        writer.take(taken)
        await writer.settled()
        assert outcome(name) == before + 1
        assert len(control.kept) == (name == "kept")

    with_writer(story)


def test_what_is_answered_while_control_is_away_is_waited_for_and_brought_once() -> None:
    async def story(writer: TrafficWriter, control: Control) -> None:
        control.may_answer.clear()
        writer.take(exchange("r1"))
        settling = asyncio.create_task(writer.settled())
        assert not (await asyncio.wait({settling}, timeout=0))[0]
        control.may_answer.set()
        await settling
        assert [each["request_id"] for each in control.kept] == ["r1"]

    with_writer(story)


def test_what_control_took_before_it_died_is_brought_again_as_it_was() -> None:
    async def story(writer: TrafficWriter, control: Control) -> None:
        control.deaths = 1
        writer.take(exchange("r1"))
        writer.take(exchange("r2"))
        await writer.settled()
        first = [each for each in control.kept if each["request_id"] == "r1"]
        assert first == [first[0]] * 2, "by which control knows that it has it"

    with_writer(story)


async def test_what_waits_when_the_gateway_stops_is_still_brought() -> None:
    control = Control()
    writer = TrafficWriter(control, Redactor(ON), ON)
    running = asyncio.create_task(writer.run())
    writer.take(exchange("r1"))
    await asyncio.sleep(0)  # it has begun
    running.cancel()
    await asyncio.wait({running})
    assert [each["request_id"] for each in control.kept] == ["r1"]


class _Answering:
    """An app that answers in the pieces that it is given; `ends`: the last one is."""

    def __init__(self, *pieces: bytes, status: int = 200, ends: bool = True) -> None:
        self.pieces, self.status, self.ends = pieces, status, ends

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = b"text/event-stream" if len(self.pieces) > 1 else b"application/json"
        headers = [(b"content-type", kind), (b"x-model-id", b"m")]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for number, piece in enumerate(self.pieces, start=1):
            more = number < len(self.pieces) or not self.ends
            await send({"type": "http.response.body", "body": piece, "more_body": more})


PIECES = (
    b'data: {"choices": [{"index": 0, "delta": {"content": "fo"}}]}\n\nda',
    b'ta: {"choices": [{"index": 0, "delta": {"content": "ur"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n',
)
WHOLE = b'{"choices": [{"message": {"content": "four"}}]}'


async def _asked(
    app: Sampled, *, consents: bool = True, priority: int | None = None, owner: str = "k", path: str | None = None
) -> list[Message]:
    client = FakeClient(path=path or "/v1/chat/completions")
    context = RequestContext.begin(client.scope)
    context.request_id, context.consents, context.priority = "r1", consents, priority
    context.body = RequestBody(b'{"messages": [{"role": "user", "content": "2+2?"}]}')
    key_id.set(owner)
    await app(client.scope, client.receive, client.send)
    return client.sent


@pytest.mark.parametrize("app", [_Answering(*PIECES), _Answering(WHOLE)])
def test_a_whole_answer_is_kept_and_passes_as_it_is(app: _Answering) -> None:
    async def story(writer: TrafficWriter, control: Control) -> None:
        sent = await _asked(Sampled(app, writer, ON))
        assert [message.get("body") for message in sent[1:]] == list(app.pieces)
        await writer.settled()
        assert [(each["answer"], each["model"]) for each in control.kept] == [("four", "m")]

    with_writer(story)


@pytest.mark.parametrize(
    ("asking", "app"),
    [
        ({"consents": False}, _Answering(WHOLE)),
        ({"priority": 10}, _Answering(WHOLE)),
        ({"owner": "anonymous"}, _Answering(WHOLE)),
        ({"path": "/v1/embeddings"}, _Answering(WHOLE)),
        ({}, _Answering(WHOLE, status=400)),
        ({}, _Answering(*PIECES, ends=False)),
    ],
)
def test_nothing_is_kept_without_consent_or_of_an_answer_that_is_not_whole(
    asking: dict[str, Any], app: _Answering
) -> None:
    async def story(writer: TrafficWriter, control: Control) -> None:
        await _asked(Sampled(app, writer, ON), **asking)
        await writer.settled()
        assert control.kept == []
        assert writer.hold(1000), "nothing is held for it any more"

    with_writer(story, max_held_bytes=1000)


def test_an_answer_that_goes_into_the_cache_is_heard_too() -> None:
    async def cached(scope: Scope, receive: Receive, send: Send) -> None:
        recorder = Recorder(tracked(send, scope))
        await _Answering(WHOLE)(scope, receive, send)
        assert recorder.answer is not None

    async def story(writer: TrafficWriter, control: Control) -> None:
        await _asked(Sampled(cached, writer, ON))
        await writer.settled()
        assert len(control.kept) == 1

    with_writer(story)


def test_a_share_is_kept() -> None:
    async def story(writer: TrafficWriter, control: Control) -> None:
        chances = iter([0.09, 0.1, 0.5])
        app = Sampled(_Answering(WHOLE), writer, ON.model_copy(update={"share": 0.1}), lambda: next(chances))
        for _ in range(3):
            await _asked(app)
        await writer.settled()
        assert len(control.kept) == 1

    with_writer(story)


def test_without_a_key_the_settings_consent() -> None:
    async def story(writer: TrafficWriter, control: Control) -> None:
        app = Sampled(_Answering(WHOLE), writer, ON.model_copy(update={"without_keys": True}))
        await _asked(app, owner="anonymous")
        await writer.settled()
        assert [each["owner"] for each in control.kept] == ["anonymous"]

    with_writer(story)


def test_more_than_there_is_room_for_is_dropped_and_counted() -> None:
    async def story(writer: TrafficWriter, control: Control) -> None:
        before = outcome("refused")
        await _asked(Sampled(_Answering(WHOLE), writer, ON))
        assert outcome("refused") == before + 1
        assert writer.hold(50), "what was held for it is free again"
        assert control.kept == []

    with_writer(story, max_held_bytes=50)


def test_what_control_never_takes_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.traffic.writer._SETTLE_S", 0.01)

    async def story(writer: TrafficWriter, control: Control) -> None:
        control.may_answer.clear()
        writer.take(exchange("r1"))
        with pytest.raises(ControlDown):
            await writer.settled()
        control.may_answer.set()

    with_writer(story)
