"""Requests and answers through filters, in every envelope and dialect, whole and streamed."""

import asyncio
import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.filtering.app import Filtered
from gateway.filtering.installed import GROUP, FilterRefused, filters_of
from gateway.http.asgi import Receive, Scope, Send, send_json
from gateway.request.bounds import RequestBounds
from gateway.request.context import RequestContext
from stepserve.settings import FilterSetting
from tests.unit.gateway.fakes import FakeClient
from tests.unit.gateway.test_dialects import sent

CHAT, TEXT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
SECRET = {"patterns": [r"s\d{3}"], "replacement": "###"}


class Vllm:
    """Gives the answer that it was told, JSON or events, and keeps what it was asked."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: Any = None
        self.left = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = RequestContext.of(scope).body
        assert body is not None
        self.asked = json.loads(body.raw)
        if not isinstance(self.answer, list):
            await send_json(send, 200, self.answer)
            return
        head = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        for event in self.answer:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        gone = asyncio.ensure_future(receive())
        self.left = bool((await asyncio.wait({gone}, timeout=0.01))[0])
        gone.cancel()
        await send({"type": "http.response.body", "body": b""})


def through(answer: Any, path: str = CHAT, options: Mapping[str, Any] = SECRET, **body: Any) -> tuple[FakeClient, Vllm]:
    return through_raw(json.dumps({"model": "a", **body}).encode(), answer, path, options)


def through_raw(
    body: bytes, answer: Any, path: str = CHAT, options: Mapping[str, Any] = SECRET
) -> tuple[FakeClient, Vllm]:
    vllm = Vllm(answer)
    filters = filters_of([FilterSetting(use="patterns", options=dict(options))])
    app = Filtered(vllm, filters, RequestBounds.unbounded(), 100_000)
    client = FakeClient(body, path)
    asyncio.run(app(client.scope, client.receive, client.send))
    return client, vllm


def data(event: Any, *, named: bool = False) -> bytes:
    head = f"event: {event['type']}\n" if named else ""
    return f"{head}data: {json.dumps(event)}\n\n".encode()


def events(client: FakeClient) -> list[Any]:
    lines = [line[6:] for line in client.body.decode().splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def delta(index: int = 0, finish: str | None = None, **fields: Any) -> bytes:
    return data({"id": "1", "choices": [{"index": index, "delta": fields, "finish_reason": finish}]})


DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("path", "body", "asked"),
    [
        (CHAT, {"messages": [{"role": "s123", "content": "say s123"}]}, [{"role": "s123", "content": "say ###"}]),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "s123"}]}]},
            [{"role": "user", "content": [{"type": "text", "text": "###"}]}],
        ),
        (TEXT, {"prompt": ["s123", "x"]}, ["###", "x"]),
        (RESPONSES, {"input": "s123"}, "###"),
        (MESSAGES, {"system": "s123"}, "###"),
        ("/v1/embeddings", {"input": ["s123"]}, ["###"]),
        (CHAT, {"documents": [{"id": "s123"}]}, [{"id": "###"}]),
        (CHAT, {"chat_template_kwargs": {"name": "s123"}}, {"name": "###"}),
        (RESPONSES, {"previous_input_messages": [{"role": "user", "content": "s123"}]}, [
            {"role": "user", "content": "###"}]),
        (
            MESSAGES,
            {"messages": [{"role": "assistant", "content": [{"id": "s123", "input": {"id": "s123"}}]}]},
            [{"role": "assistant", "content": [{"id": "s123", "input": {"id": "###"}}]}],
        ),
        (
            MESSAGES,
            {"tools": [{"name": "s123", "input_schema": {"properties": {"name": {"description": "s123"}}}}]},
            [{"name": "s123", "input_schema": {"properties": {"name": {"description": "###"}}}}],
        ),
    ],
)  # fmt: skip
def test_what_is_asked_is_redacted(path: str, body: dict[str, Any], asked: Any) -> None:
    _, vllm = through({}, path, **body)
    assert vllm.asked == {"model": "a", next(iter(body)): asked}


def test_what_cannot_be_looked_into_reaches_nobody() -> None:
    client, vllm = through_raw(b'{"model": "a", "messages": [{"role": "user", "content": "s123", "w": 1e999}]}', {})
    assert (client.status, vllm.asked) == (400, None)
    assert json.loads(client.body)["error"]["param"] == "messages"


def test_a_request_that_is_blocked_reaches_nobody() -> None:
    client, vllm = through({}, options=SECRET | {"action": "block"}, messages=[{"role": "user", "content": "s123"}])
    assert (client.status, vllm.asked) == (400, None)
    assert json.loads(client.body)["error"]["code"] == "content_filter"


@pytest.mark.parametrize(
    ("path", "answer", "expected"),
    [
        (
            CHAT,
            {"choices": [{"index": 0, "finish_reason": "stop", "message": {
                "role": "assistant", "content": "it is s123", "reasoning": "s456",
                "tool_calls": [{"id": "s789", "function": {"name": "s789", "arguments": '{"a": "s789"}'}}]}}]},
            {"choices": [{"index": 0, "finish_reason": "stop", "message": {
                "role": "assistant", "content": "it is ###", "reasoning": "###",
                "tool_calls": [{"id": "s789", "function": {"name": "s789", "arguments": '{"a": "###"}'}}]}}]},
        ),
        (TEXT, {"choices": [{"text": "s123 s1"}]}, {"choices": [{"text": "### s1"}]}),
        (
            RESPONSES,
            {"id": "s123", "output": [{"type": "message", "content": [{"type": "output_text", "text": "s123"}]}]},
            {"id": "s123", "output": [{"type": "message", "content": [{"type": "output_text", "text": "###"}]}]},
        ),
        (
            MESSAGES,
            {"content": [{"type": "text", "text": "s123"}, {"type": "tool_use", "input": {"q": ["s123"]}}]},
            {"content": [{"type": "text", "text": "###"}, {"type": "tool_use", "input": {"q": ["###"]}}]},
        ),
    ],
)  # fmt: skip
def test_whole_answers_are_redacted(path: str, answer: Any, expected: Any) -> None:
    client, _ = through(answer, path)
    assert json.loads(client.body) == expected
    assert int(client.headers[b"content-length"]) == len(client.body)


@pytest.mark.parametrize(
    ("path", "answer", "expected"),
    [
        (
            CHAT,
            {"choices": [{"message": {"content": "s123"}, "finish_reason": "stop"}, {"message": {"content": "x"}}]},
            {"choices": [
                {"message": {"role": "assistant", "content": ""}, "finish_reason": "content_filter"},
                {"message": {"content": "x"}},
            ]},
        ),
        (
            RESPONSES,
            {"status": "completed", "output": [{"content": [{"text": "s123"}]}]},
            {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}, "output": []},
        ),
        (
            MESSAGES,
            {"content": [{"type": "text", "text": "s123"}], "stop_reason": "end_turn"},
            {"content": [], "stop_reason": "refusal", "stop_sequence": None},
        ),
    ],
)  # fmt: skip
def test_whole_answers_are_blocked_as_their_clients_know_it(path: str, answer: Any, expected: Any) -> None:
    client, _ = through(answer, path, SECRET | {"action": "block"})
    assert (client.status, json.loads(client.body)) == (200, expected)


def test_a_chat_stream_is_redacted_part_by_part() -> None:
    stream = [
        delta(role="assistant", content=""), delta(reasoning="think s1"), delta(reasoning="23 s4"),
        delta(content="56 s4"), delta(1, content="s"), delta(content="56"), delta(content=" ok s9"),
        delta(1, "stop", content="777"), delta(0, "length"), DONE,
    ]  # fmt: skip
    client, _ = through(stream, stream=True)
    seen = events(client)
    said: dict[tuple[int, str], str] = {}
    for event in seen[:-1]:
        for choice in event["choices"]:
            for name, text in choice["delta"].items():
                said[choice["index"], name] = said.get((choice["index"], name), "") + text
    assert said == {
        (0, "role"): "assistant", (0, "reasoning"): "think ### s4", (0, "content"): "56 ### ok s9",
        (1, "content"): "###",
    }  # fmt: skip
    assert seen[3]["choices"][0]["delta"]["reasoning"] == "s4", "before the content that comes behind it"
    assert seen[-1] == "[DONE]"


@pytest.mark.parametrize("named", [False, True])
def test_an_answer_that_quotes_a_stream_is_redacted(named: bool) -> None:
    event = {"type": "x", "choices": [{"index": 0, "delta": {"content": "data: {} s123"}, "finish_reason": "stop"}]}
    client, _ = through([data(event, named=named), DONE], messages=[], stream=True)
    assert events(client)[0]["choices"][0]["delta"]["content"] == "data: {} ###"


@pytest.mark.parametrize(
    "form",
    [
        b"data: %s\r\n\r\n", b"data:%s\n\n", b": busy\nid: 1\ndata: %s\n\n", b"data: %s\nid: 1\n\n",
        b"event: chunk\ndata: %s\n\n",
    ],
)  # fmt: skip
def test_another_hosts_way_to_write_events_is_filtered(form: bytes) -> None:
    event = {"choices": [{"index": 0, "delta": {"content": "a s123"}, "finish_reason": "stop"}], "error": None}
    stream = [form % json.dumps(event).encode(), b": only a comment\n\n", b"data: s123 is no JSON\n\n", DONE]
    pieces = [piece for part in stream for piece in (part[:-3], part[-3:])]
    client, _ = through([*pieces, b"data: s123 without an end"], messages=[], stream=True)
    first, *rest = events(client)
    assert first["choices"][0]["delta"]["content"] == "a ###"
    assert rest == ["[DONE]"]
    assert b"s123" not in client.body


def test_an_event_that_cannot_be_looked_into_is_not_sent_on() -> None:
    client, _ = through([b'data: "s123"\n\n', b"data: {s123\n\n", delta(content="fine"), DONE])
    assert b"s123" not in client.body
    assert events(client)[0]["choices"][0]["delta"]["content"] == "fine"


def test_arguments_of_a_streamed_call_are_redacted() -> None:
    call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a": "s1'}}
    rest = {"index": 0, "function": {"arguments": '23", "b": "s1'}}
    client, _ = through([delta(tool_calls=[call]), delta(tool_calls=[rest]), delta(0, "tool_calls"), DONE], stream=True)
    calls = [call for event in events(client)[:-1] for call in event["choices"][0]["delta"].get("tool_calls", ())]
    assert "".join(call["function"]["arguments"] for call in calls) == '{"a": "###", "b": "s1'


def test_a_blocked_stream_ends_and_the_engine_is_left() -> None:
    stream = [delta(content="it is s1"), delta(content="23 and"), delta(content=" more"), DONE]
    client, vllm = through(stream, options=SECRET | {"action": "block"}, stream=True)
    seen = events(client)
    assert [event["choices"][0]["delta"] for event in seen[:-1]] == [{"content": "it is "}, {}]
    assert seen[1]["choices"][0]["finish_reason"] == "content_filter"
    assert seen[-1] == "[DONE]"
    assert client.sent[-1].get("more_body", False) is False
    assert vllm.left


def test_of_several_choices_the_one_that_is_blocked_ends_and_the_others_go_on() -> None:
    stream = [
        delta(role="assistant"), delta(1, role="assistant"), delta(content="s123."), delta(1, content="ok "),
        delta(content=" more"), delta(1, content="then"), delta(0, "stop"), delta(1, "stop"),
        data({"id": "1", "choices": [], "usage": {"total_tokens": 9}}), DONE,
    ]  # fmt: skip
    client, vllm = through(stream, options=SECRET | {"action": "block"}, stream=True, n=2)
    *seen, done = events(client)
    said = [(choice["index"], choice["delta"].get("content"), choice["finish_reason"])
            for event in seen[2:] for choice in event["choices"]]  # fmt: skip
    assert said == [(0, None, "content_filter"), (1, "ok ", None), (1, "then", None), (1, None, "stop")]
    assert (seen[-1]["usage"], done, vllm.left) == ({"total_tokens": 9}, "[DONE]", False)


@pytest.mark.parametrize(("path", "body"), [(CHAT, {"n": 2}), (TEXT, {"prompt": ["x", "y"]})])
def test_the_block_of_the_last_choice_ends_the_stream(path: str, body: dict[str, Any]) -> None:
    """Each choice has its end, one that the model has ended by itself included."""

    def say(index: int, text: str, finish: str | None = None) -> bytes:
        said = {"delta": {"content": text}} if path == CHAT else {"text": text}
        return data({"choices": [{"index": index, **said, "finish_reason": finish}]})

    stream = [say(1, "fine", "stop"), say(0, "s123."), say(0, " more", "stop"), DONE]
    client, vllm = through(stream, path, SECRET | {"action": "block"}, stream=True, **body)
    *seen, done = events(client)
    ends = {choice["index"]: choice["finish_reason"] for event in seen for choice in event["choices"]}
    assert (ends, done, vllm.left) == ({1: "stop", 0: "content_filter"}, "[DONE]", True)
    assert b"more" not in client.body


def responses_stream(*texts: str) -> list[bytes]:
    at = {"item_id": "m", "output_index": 0, "content_index": 0}
    full = "".join(texts)
    part = {"type": "output_text", "text": full}
    item = {"type": "message", "content": [part]}
    parts: list[dict[str, Any]] = [
        {"type": "response.created", "response": {"id": "r", "output": [], "status": "in_progress"}},
        *({"type": "response.output_text.delta", "delta": text, **at} for text in texts),
        {"type": "response.output_text.done", "text": full, **at},
        {"type": "response.content_part.done", "part": part, **at},
        {"type": "response.output_item.done", "item": item, "output_index": 0},
        {"type": "response.completed", "response": {"id": "r", "output": [item], "status": "completed"}},
    ]
    return [data(each | {"sequence_number": number}, named=True) for number, each in enumerate(parts)]


def test_a_responses_stream_is_redacted_in_all_that_repeats_the_text() -> None:
    client, _ = through(responses_stream("a s1", "23 s", "9"), RESPONSES, stream=True)
    seen = events(client)
    assert [event["sequence_number"] for event in seen] == list(range(len(seen)))
    deltas = [event["delta"] for event in seen if event["type"].endswith(".delta")]
    assert deltas == ["a ", "### ", "", "s9"]
    assert "s123" not in client.body.decode()
    assert seen[-1]["response"]["output"][0]["content"][0]["text"] == "a ### s9"
    assert b"event: response.output_text.done\n" in client.body


def test_a_blocked_responses_stream_is_incomplete() -> None:
    client, _ = through(responses_stream("a s1", "23"), RESPONSES, SECRET | {"action": "block"}, stream=True)
    last = events(client)[-1]
    assert last["type"] == "response.incomplete"
    assert last["response"] == {
        "id": "r", "output": [], "status": "incomplete", "incomplete_details": {"reason": "content_filter"}
    }  # fmt: skip


def messages_stream(*texts: str) -> list[bytes]:
    parts: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"id": "m", "content": []}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}} for text in texts),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    ]
    return [data(each, named=True) for each in parts]


def test_an_anthropic_stream_is_redacted_and_blocked() -> None:
    client, _ = through(messages_stream("a s1", "23 s", "9"), MESSAGES, stream=True)
    seen = [event["delta"]["text"] for event in events(client) if event["type"] == "content_block_delta"]
    assert seen == ["a ", "### ", "", "s9"]
    blocked, _ = through(messages_stream("a s1", "23 s"), MESSAGES, SECRET | {"action": "block"}, stream=True)
    ends = events(blocked)[-3:]
    assert [event["type"] for event in ends] == ["content_block_stop", "message_delta", "message_stop"]
    assert ends[1]["delta"]["stop_reason"] == "refusal"


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (CHAT, {"messages": [], "logprobs": True}, "logprobs"),
        (TEXT, {"prompt": "x", "logprobs": 0}, "logprobs"),
        (TEXT, {"prompt": "x", "prompt_logprobs": 0}, "prompt_logprobs"),
        (TEXT, {"prompt": "x", "return_token_ids": True}, "return_token_ids"),
        (TEXT, {"prompt": [1, 2]}, "prompt"),
        (TEXT, {"prompt": [[1, 2]]}, "prompt"),
        (RESPONSES, {"input": "x", "top_logprobs": 2}, "top_logprobs"),
        (RESPONSES, {"input": "x", "enable_response_messages": True}, "enable_response_messages"),
        (CHAT, {"messages": [], "logprob_token_ids": [1]}, "logprob_token_ids"),
        (RESPONSES, {"input": "x", "include": ["message.output_text.logprobs"]}, "include"),
    ],
)
def test_what_would_say_more_than_the_text_is_refused(path: str, body: dict[str, Any], field: str) -> None:
    client, vllm = through({}, path, **body)
    assert (client.status, vllm.asked) == (400, None)
    assert json.loads(client.body)["error"]["param"] == field


@pytest.mark.parametrize("body", [{"logprobs": False, "top_logprobs": 0}, {"logprobs": None}])
def test_a_client_that_says_all_its_defaults_is_served(body: dict[str, Any]) -> None:
    client, _ = through({"choices": []}, messages=[], **body)
    assert client.status == 200


def test_other_dialects_are_filtered_too(tmp_path: Path) -> None:
    vllm = Vllm([delta(content="it is s1"), delta(content="23"), delta(0, "stop"), DONE])
    filters = filters_of([FilterSetting(use="patterns", options=SECRET)])
    app = Filtered(vllm, filters, RequestBounds.unbounded(), 100_000)
    asked = {"model": "a", "messages": [{"role": "user", "content": "s555"}]}
    client = sent(tmp_path, app, FakeClient(json.dumps(asked).encode(), "/api/chat"))
    said = "".join(json.loads(line)["message"]["content"] for line in client.body.splitlines())
    assert (said, vllm.asked["messages"][0]["content"]) == ("it is ###", "###")


MODULE = """
class Loud:
    def feed(self, text):
        return text.upper()

    def end(self):
        return ""


class Filter:
    def of_request(self):
        return None

    def of_answer(self):
        return Loud()


def loud(options):
    if options:
        raise ValueError("takes no options")
    return Filter()


def nothing(options):
    return None
"""


@pytest.fixture
def others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = tmp_path / "site" / "others_filter-1.0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: others-filter\nVersion: 1.0\n")
    points = ("loud = others_filter:loud", "nothing = others_filter:nothing", "gone = others_filter:gone")
    (facts / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *points]) + "\n")
    (tmp_path / "site" / "others_filter.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "others_filter", raising=False)
    importlib.invalidate_caches()


@pytest.mark.usefixtures("others")
def test_a_filter_of_another_package_is_used_by_its_name() -> None:
    filters = filters_of([FilterSetting(use="patterns", options=SECRET), FilterSetting(use="loud")])
    vllm = Vllm({"choices": [{"text": "it is s123"}]})
    client = FakeClient(b'{"model": "a", "prompt": "x"}', TEXT)
    app = Filtered(vllm, filters, RequestBounds.unbounded(), 100_000)
    asyncio.run(app(client.scope, client.receive, client.send))
    assert json.loads(client.body)["choices"][0]["text"] == "IT IS ###"


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize(
    ("use", "options", "said"),
    [
        ("quiet", {}, r"filters\.0 \(quiet\): is not installed; there are gone, loud, nothing, patterns"),
        ("gone", {}, "cannot be imported"),
        ("nothing", {}, "is not a gateway.filtering.filter.Filter"),
        ("loud", {"x": 1}, "takes no options"),
        ("patterns", {"patterns": ["("]}, r"\(patterns\): options: patterns"),
    ],
)
def test_a_filter_that_cannot_be_used_is_refused_by_name(use: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(FilterRefused, match=said):
        filters_of([FilterSetting(use=use, options=options)])
