"""What was asked and answered, out of every envelope that vLLM's routes have."""

import json
from typing import Any

import pytest

from gateway.filtering.answers import Shape
from gateway.request.body import RequestBody
from gateway.traffic.said import NotText, answered, asked
from stepserve.traffic import Turn

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}


def turns(*said: tuple[str, str]) -> list[Turn]:
    return [Turn(role=role, content=content) for role, content in said]


def body(**fields: Any) -> RequestBody:
    return RequestBody(json.dumps(fields).encode())


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("shape", "fields", "prompt"),
    [
        ("choices", {"prompt": "One and"}, "One and"),
        (
            "choices",
            {"messages": [{"role": "developer", "content": "be brief"}, user([{"type": "text", "text": "a"}])]},
            turns(("system", "be brief"), ("user", "a")),
        ),
        ("responses", {"input": "a", "instructions": "be brief"}, turns(("system", "be brief"), ("user", "a"))),
        (
            "responses",
            {"input": [user([{"type": "input_text", "text": "a"}]), {"role": "assistant", "content": "b"}, user("c")]},
            turns(("user", "a"), ("assistant", "b"), ("user", "c")),
        ),
        (
            "messages",
            {"system": [{"type": "text", "text": "be brief"}], "messages": [user("a")]},
            turns(("system", "be brief"), ("user", "a")),
        ),
    ],
)
def test_what_is_asked_in_words(shape: Shape, fields: dict[str, Any], prompt: Any) -> None:
    assert asked(shape, body(**fields)) == prompt


@pytest.mark.parametrize(
    ("shape", "fields"),
    [
        ("choices", {"prompt": [1, 2, 3]}),
        ("choices", {"prompt": ["a", "b"]}),
        ("choices", {"messages": []}),
        ("choices", {"messages": [user([IMAGE])]}),
        ("choices", {"messages": [user("a"), {"role": "tool", "content": "3", "tool_call_id": "1"}]}),
        ("choices", {"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]}),
        ("responses", {"input": [{"type": "function_call_output", "call_id": "1", "output": "3"}]}),
        ("messages", {"messages": "a"}),
    ],
)
def test_what_is_not_asked_in_words(shape: Shape, fields: dict[str, Any]) -> None:
    with pytest.raises(NotText):
        asked(shape, body(**fields))


def whole(answer: Any) -> bytes:
    return json.dumps(answer).encode()


def stream(*events: Any, done: bool = False) -> bytes:
    lines = [f"event: x\ndata: {json.dumps(each)}\n\n".encode() for each in events]
    return b"".join(lines) + (b"data: [DONE]\n\n" if done else b"")


MESSAGE = {"type": "message", "content": [{"type": "output_text", "text": "four"}]}
RESPONSE = {"status": "completed", "output": [{"type": "reasoning", "summary": []}, MESSAGE]}


@pytest.mark.parametrize(
    ("shape", "content", "is_stream", "finish_reason"),
    [
        (
            "choices",
            whole({"choices": [{"message": {"content": "four", "tool_calls": []}, "finish_reason": "stop"}]}),
            False,
            "stop",
        ),
        ("choices", whole({"choices": [{"text": "four", "finish_reason": "length"}]}), False, "length"),
        (
            "choices",
            stream(
                {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
                {"choices": [{"index": 0, "delta": {"content": "fo"}}]},
                {"choices": [{"index": 0, "delta": {"content": "ur"}, "finish_reason": "stop"}]},
                {"choices": [], "usage": {"total_tokens": 3}},
                done=True,
            ),
            True,
            "stop",
        ),
        ("choices", stream({"choices": [{"index": 0, "text": "four"}]}, done=True), True, ""),
        ("responses", whole(RESPONSE), False, "stop"),
        (
            "responses",
            stream(
                {"type": "response.created", "response": RESPONSE | {"status": "in_progress", "output": []}},
                {"type": "response.output_text.delta", "delta": "four"},
                {"type": "response.completed", "response": RESPONSE},
            ),
            True,
            "stop",
        ),
        (
            "messages",
            whole({"content": [{"type": "thinking", "thinking": "…"}, {"type": "text", "text": "four"}],
                   "stop_reason": "end_turn"}),
            False,
            "end_turn",
        ),
        (
            "messages",
            stream(
                {"type": "message_start", "message": {"content": []}},
                {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "four"}},
                {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
                {"type": "message_stop"},
            ),
            True,
            "end_turn",
        ),
    ],
)  # fmt: skip
def test_what_is_answered_in_words(shape: Shape, content: bytes, is_stream: bool, finish_reason: str) -> None:
    said = answered(shape, content, is_stream=is_stream)
    assert (said.text, said.finish_reason) == ("four", finish_reason)


@pytest.mark.parametrize(
    ("shape", "content", "is_stream"),
    [
        ("choices", b"not JSON", False),
        ("choices", whole({"choices": [{"text": "a"}, {"text": "b"}]}), False),
        ("choices", whole({"choices": [{"message": {"content": None, "tool_calls": [{"id": "1"}]}}]}), False),
        ("choices", whole({"choices": [{"text": "  "}]}), False),
        ("choices", stream({"choices": [{"index": 1, "delta": {"content": "b"}}]}, done=True), True),
        ("choices", stream({"choices": [{"delta": {"tool_calls": [{}]}}]}, done=True), True),
        ("choices", stream({"choices": [{"delta": {"content": "a"}}]}, {"error": {"message": "cut off"}}), True),
        ("responses", whole(RESPONSE | {"output": [{"type": "function_call"}]}), False),
        ("responses", stream({"type": "response.output_text.delta", "delta": "four"}), True),
        ("messages", whole({"content": [{"type": "tool_use", "input": {}}]}), False),
    ],
)
def test_what_is_not_answered_in_words(shape: Shape, content: bytes, is_stream: bool) -> None:
    with pytest.raises(NotText):
        answered(shape, content, is_stream=is_stream)
