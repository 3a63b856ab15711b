"""Translated routes before a dispatch that answers as it is told."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gateway.dialects.installed import installed_routes
from gateway.dialects.native.generate import GenerateRequest
from gateway.dialects.router import ProtocolAdapters
from gateway.dialects.served import Served
from gateway.http.asgi import App, Message, Receive, Scope, Send, read_body, send_json
from gateway.inference.dispatch import Dispatch
from gateway.inference.routes import create_routes
from gateway.request.bounds import RequestBounds
from gateway.serving.gate import Gate
from gateway.serving.naming import Naming
from gateway.serving.slot import Slot
from gateway.sidecar.control_link import ControlProxy
from stepserve.contract import GatewayState
from stepserve.settings import Settings
from tests.unit.gateway.fakes import FakeClient, FakeEngine, FakeKeeper, model, router_over

BOUNDS = RequestBounds(max_sequences=64, max_text_chars=1_000_000, max_values=1_000_000)
IDENTITY = [(b"x-model-id", b"a"), (b"x-model-digest", b"sha256:a")]
EMPTY = GatewayState(boot_id="1", pid=1, active=None, switching_to=None, slots=[], held=0)


class Inner:
    """`/v1`: gives the next answer, JSON or the bytes of a stream, and keeps what it was asked."""

    def __init__(self, answer: Any, status: int = 200) -> None:
        self.answer = answer
        self.status = status
        self.asked: list[tuple[str, Any]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append((scope["path"], json.loads(await read_body(receive, 10_000))))
        if not isinstance(self.answer, list):
            await send_json(send, self.status, self.answer, IDENTITY)
            return
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), *IDENTITY]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in self.answer:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def ask(base: Path, inner: Inner, path: str, **body: Any) -> FakeClient:
    return sent(base, inner, FakeClient(json.dumps(body).encode(), path))


def sent(base: Path, inner: App, client: FakeClient) -> FakeClient:
    settings, keeper = Settings(base_dir=base), FakeKeeper()
    control = ControlProxy(base / "no.sock", 10_000)
    served = Served(lambda: EMPTY, Naming())
    dialects: ProtocolAdapters = create_routes(
        settings, inner, served, control, keeper, keeper, BOUNDS, installed_routes(served)
    )

    async def scenario() -> None:
        await dialects(client.scope, client.receive, client.send)
        await control.close()

    asyncio.run(scenario())
    return client


def chunk(text: str | None = None, **more: Any) -> bytes:
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}, "finish_reason": None}]
    return b"data: " + json.dumps({"model": "a", "choices": choices, **more}).encode() + b"\n\n"


def lines(client: FakeClient) -> Sequence[Any]:
    return [json.loads(line.removeprefix("data: ")) for line in client.body.decode().splitlines() if line]


ASKED = {"model": "a", "messages": [{"role": "user", "content": "x"}]}
WHOLE = {
    "id": "1", "model": "a", "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    "choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "length"}],
}  # fmt: skip


def test_a_whole_answer_carries_the_identity_of_who_gave_it(tmp_path: Path) -> None:
    client = ask(tmp_path, Inner(WHOLE), "/api/chat", **ASKED, stream=False)
    assert client.status == 200
    assert client.headers[b"x-model-id"] == b"a"
    answer = json.loads(client.body)
    assert (answer["message"]["content"], answer["done_reason"], answer["eval_count"]) == ("hi", "length", 2)


def test_events_that_come_in_any_pieces(tmp_path: Path) -> None:
    stream = (
        chunk("one ") + chunk("two") + chunk(usage={"prompt_tokens": 1, "completion_tokens": 2}) + b"data: [DONE]\n\n"
    )
    pieces = [stream[start : start + 7] for start in range(0, len(stream), 7)]
    client = ask(tmp_path, Inner(pieces), "/api/chat", **ASKED)
    assert client.headers[b"content-type"] == b"application/x-ndjson"
    *said, last = lines(client)
    assert [line["message"]["content"] for line in said] == ["one ", "two"]
    assert (last["done"], last["eval_count"]) == (True, 2)


def test_tool_calls_of_a_stream_are_put_together(tmp_path: Path) -> None:
    first = {"index": 0, "id": "c", "function": {"name": "add", "arguments": '{"a":'}}
    second = {"index": 0, "function": {"arguments": " 1}"}}
    stream = [
        chunk(choices=[{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}])
        for call in (first, second)
    ]
    client = ask(tmp_path, Inner([*stream, b"data: [DONE]\n\n"]), "/api/chat", **ASKED)
    called, last = lines(client)
    assert called["message"]["tool_calls"] == [{"function": {"name": "add", "arguments": {"a": 1}}}]
    assert last["done"]


def test_thinking_that_the_prompt_has_opened(tmp_path: Path) -> None:
    stream = [chunk("su", prompt_text="… <think>\n"), chunk("m</thi"), chunk("nk>\n42"), b"data: [DONE]\n\n"]
    client = ask(tmp_path, Inner(stream), "/generate", prompt="x", mode="think", stream=True)
    said = [line["delta"] for line in lines(client)]
    assert "".join(delta.get("reasoning_content", "") for delta in said) == "sum"
    assert "".join(delta.get("content", "") for delta in said) == "42"


@pytest.mark.parametrize("path", ["/api/chat", "/chat"])
@pytest.mark.parametrize("end", [[], [b'data: {"error": {"message": "it died", "code": "service_unavailable"}}\n\n']])
def test_a_stream_that_breaks_off_says_so(tmp_path: Path, path: str, end: list[bytes]) -> None:
    client = ask(tmp_path, Inner([chunk("half"), *end]), path, **ASKED, stream=True)
    last = lines(client)[-1]
    assert ("it died" if end else "cut off") in json.dumps(last["error"])


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/api/chat", {"error": "not now"}), ("/chat", {"detail": "not now", "code": "service_unavailable"})],
)
@pytest.mark.parametrize("stream", [True, False])
def test_a_refusal_keeps_its_status_and_changes_its_envelope(
    tmp_path: Path, path: str, expected: dict[str, str], stream: bool
) -> None:
    error = {"error": {"message": "not now", "type": "server_error", "param": None, "code": "service_unavailable"}}
    client = ask(tmp_path, Inner(error, 503), path, **ASKED, stream=stream)
    assert client.status == 503
    assert json.loads(client.body) == expected


def test_a_client_that_left_gets_nothing(tmp_path: Path) -> None:
    """vLLM's answer to it is `null`."""
    assert ask(tmp_path, Inner(None), "/chat", **ASKED).sent == []


def test_control_is_away(tmp_path: Path) -> None:
    for path, body in (("/generate", {"prompt": "x", "queue": True}), ("/api/pull", {"model": "x"})):
        client = ask(tmp_path, Inner({}), path, **body)
        assert client.status == 503
        assert client.headers[b"retry-after"] == b"2"


def test_defaults_are_below_what_is_asked(tmp_path: Path) -> None:
    inner = Inner(WHOLE)
    ask(tmp_path, inner, "/generate", prompt="x", raw=True, temperature=0, max_new_tokens=3)
    ask(tmp_path, inner, "/generate", prompt="x", raw=True, do_sample=False)
    assert inner.asked[0] == (
        "/v1/completions", {"model": "active", "prompt": "x", "temperature": 0, "top_p": 0.9, "max_tokens": 3},
    )  # fmt: skip
    assert inner.asked[1][1]["temperature"] == 0
    assert inner.asked[1][1]["max_tokens"] == 256


@pytest.mark.parametrize("greedy", [{"do_sample": False}, {"temperature": 0}])
def test_several_greedy_answers_are_refused_by_their_field(greedy: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="num_return_sequences must be 1"):
        GenerateRequest.model_validate({"prompt": "x", "num_return_sequences": 3, **greedy})


@pytest.mark.parametrize("more", [{"do_sample": False, "temperature": 0.7}, {"do_sample": False}, {"temperature": 0}])
def test_who_does_not_sample_is_answered_greedily_whatever_the_temperature(
    tmp_path: Path, more: dict[str, Any]
) -> None:
    inner = Inner(WHOLE)
    assert ask(tmp_path, inner, "/generate", prompt="x", **more).status == 200
    assert inner.asked[0][1]["temperature"] == 0


class Untemplated(Inner):
    """A model that refuses to chat, in vLLM's way, and continues a prompt."""

    def __init__(self, stream: bool) -> None:
        text = {"index": 0, "text": "<think>4", "finish_reason": "stop"}
        whole = WHOLE | {"choices": [text]}
        super().__init__([chunk(choices=[text]), b"data: [DONE]\n\n"] if stream else whole)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/v1/completions":
            await super().__call__(scope, receive, send)
            return
        self.asked.append((scope["path"], json.loads(await read_body(receive, 10_000))))
        refusal = {"message": "no template", "type": "x", "param": "messages", "code": "no_chat_template"}
        await send_json(send, 400, {"error": refusal}, IDENTITY)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_goes_through_the_template_where_there_is_one(tmp_path: Path, stream: bool) -> None:
    inner = Inner([chunk("hi"), b"data: [DONE]\n\n"] if stream else WHOLE)
    client = ask(tmp_path, inner, "/generate", prompt="17+25?", stream=stream)
    [(path, body)] = inner.asked
    assert (path, body["messages"]) == ("/v1/chat/completions", [{"role": "user", "content": "17+25?"}])
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert b"hi" in client.body


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_is_continued_where_there_is_no_template(tmp_path: Path, stream: bool) -> None:
    inner = Untemplated(stream)
    client = ask(tmp_path, inner, "/generate", prompt="2+2=", temperature=0, stream=stream)
    assert client.status == 200
    assert [path for path, _ in inner.asked] == ["/v1/chat/completions", "/v1/completions"]
    assert (inner.asked[1][1]["prompt"], "messages" in inner.asked[1][1]) == ("2+2=", False)
    first = lines(client)[0]
    assert (first["delta"]["content"] if stream else first["text"]) == "<think>4"


def test_thinking_needs_a_template(tmp_path: Path) -> None:
    client = ask(tmp_path, Untemplated(stream=False), "/generate", prompt="x", mode="think")
    assert (client.status, json.loads(client.body)["code"]) == (400, "no_chat_template")
    both = ask(tmp_path, Inner(WHOLE), "/generate", prompt="x", mode="think", raw=True)
    assert both.status == 422
    assert "raw" in json.loads(both.body)["detail"]


class WithoutSystem(Inner):
    """A template that knows no system role, as Gemma's."""

    def __init__(self, says: str) -> None:
        super().__init__(WHOLE)
        self.says = says

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = json.loads(await read_body(receive, 10_000))
        self.asked.append((scope["path"], body))
        if body["messages"][0]["role"] == "system":
            await send_json(send, 400, {"error": {"message": self.says, "code": 400}})
        else:
            await send_json(send, 200, self.answer, IDENTITY)


@pytest.mark.parametrize(
    ("says", "status"),
    [
        ("System role not supported", 200),
        ("Conversation roles must alternate user/assistant/user/assistant/...", 200),
        ("This model's maximum context length is 512 tokens.", 400),
    ],
)
def test_a_problem_is_put_without_a_system_prompt_to_a_template_that_has_none(
    tmp_path: Path, says: str, status: int
) -> None:
    client = ask(tmp_path, WithoutSystem(says), "/solve/math", problem="17+25?")
    assert client.status == status
    if status == 400:
        assert json.loads(client.body)["detail"] == says


def test_an_aborted_stream_is_an_error_event_to_anthropics_clients() -> None:
    async def scenario() -> bytes:
        engine = FakeEngine(model("a"))
        engine.content_type = b"text/event-stream; charset=utf-8"
        engine.release.clear()
        gate, slot = Gate(1, 1.0), Slot(model("a"), engine, 1.0)
        gate.open(slot)
        client = FakeClient(b'{"model": "a"}', "/v1/messages")
        sent: list[Message] = client.sent
        serving = asyncio.create_task(Dispatch(router_over(gate), 1024)(client.scope, client.receive, client.send))
        await engine.entered.wait()
        await slot.abort_requests()
        await serving
        assert sent
        return client.body

    *_, name, data = asyncio.run(scenario()).decode().strip().split("\n")
    assert name == "event: error"
    error = json.loads(data.removeprefix("data: "))
    assert (error["type"], error["error"]["type"]) == ("error", "overloaded_error")


def test_a_key_that_no_header_can_carry_is_refused(tmp_path: Path) -> None:
    key = (b"idempotency-key", "schlüssel".encode())
    client = FakeClient(b'{"prompt": "x", "queue": true}', "/generate")
    client.scope["headers"] = [key]
    sent(tmp_path, Inner({}), client)
    assert client.status == 422
    assert "Idempotency-Key" in json.loads(client.body)["detail"]
