"""What is put right of requests before vLLM reads them."""

import asyncio
import json
from typing import Any

import pytest

from gateway.inference.dispatch import Dispatch
from gateway.serving.gate import Gate
from gateway.serving.slot import Slot
from tests.unit.gateway.fakes import FakeClient, FakeEngine, model, router_over

MESSAGES = [{"role": "user", "content": "x"}]
DOCUMENT = {"type": "document", "source": {"type": "text", "data": "x"}}


def sent(path: str, **body: Any) -> FakeClient:
    """To an engine that says what it was asked."""

    async def scenario() -> FakeClient:
        gate = Gate(1, 1.0)
        gate.open(Slot(model("a"), FakeEngine(model("a")), 1.0))
        client = FakeClient(json.dumps({"model": "a", **body}).encode(), path)
        client.scope["method"] = "POST"
        await Dispatch(router_over(gate), 10_000)(client.scope, client.receive, client.send)
        return client

    return asyncio.run(scenario())


def heard(path: str, **body: Any) -> Any:
    client = sent(path, **body)
    assert client.status == 200
    return json.loads(client.body[client.body.index(b"{") :])


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_an_empty_list_of_tools_is_none(path: str) -> None:
    kinds: list[dict[str, Any]] = [{"tools": []}, {"tools": [], "tool_choice": {"type": "auto"}}, {"tools": None}]
    for more in kinds:
        assert heard(path, messages=MESSAGES, **more) == {"model": "a", "messages": MESSAGES}
    tools = [{"name": "f", "input_schema": {}}]
    assert heard(path, messages=MESSAGES, tools=tools)["tools"] == tools


@pytest.mark.parametrize(
    ("messages", "named"),
    [
        ([{"role": "user", "content": [{"type": "text", "text": "x"}, DOCUMENT]}], "messages.0.content.1"),
        (
            [*MESSAGES, {"role": "user", "content": [{"type": "tool_result", "content": [{"type": "search_result"}]}]}],
            "messages.1.content.0.content.0",
        ),
        ([*MESSAGES, {"role": "assistant", "content": [{"type": "tool_use", "id": "t"}]}], "messages.1.content.0"),
    ],
)
def test_a_block_that_no_model_would_be_shown_is_refused(messages: list[Any], named: str) -> None:
    client = sent("/v1/messages", messages=messages)
    assert client.status == 400
    error = json.loads(client.body)["error"]
    assert error["type"] == "invalid_request_error"
    assert named in error["message"]


def test_a_document_is_no_system_prompt() -> None:
    client = sent("/v1/messages", messages=MESSAGES, system=[DOCUMENT])
    assert client.status == 400
    assert "system.0: blocks of type document" in json.loads(client.body)["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
@pytest.mark.parametrize("nothing", ["", [], [{"type": "text", "text": ""}]])
def test_an_answer_of_which_nothing_is_there_is_begun(path: str, nothing: Any) -> None:
    """vLLM would close that turn and answer in another one."""
    last = {"role": "assistant", "content": nothing}
    assert heard(path, messages=[*MESSAGES, last], tools=[]) == {"model": "a", "messages": MESSAGES}
    assert heard(path, messages=[last])["messages"] == [last], "alone it is the whole conversation"
    turns = [*MESSAGES, {"role": "assistant", "content": "4"}]
    assert heard(path, messages=turns)["messages"] == turns


def test_a_text_may_speak_of_documents() -> None:
    messages = [{"role": "user", "content": 'a "document" of type "search_result"'}]
    assert heard("/v1/messages", messages=messages)["messages"] == messages


def test_a_null_field_of_a_message_is_none() -> None:
    """As in an answer that a client of openai's sends back with all of its fields."""
    answer = {"role": "assistant", "content": None, "name": None, "refusal": None, "tool_calls": [{"id": "1"}]}
    asked = heard("/v1/chat/completions", messages=[*MESSAGES, answer], stop=None)
    assert asked["messages"] == [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]
    assert asked["stop"] is None
    assert heard("/v1/completions", prompt="x", messages=[answer])["messages"] == [answer]
