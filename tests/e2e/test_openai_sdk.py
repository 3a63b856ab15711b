"""The openai SDK, unchanged, against the server."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.e2e.server import FINAL_ID, Server

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is 17+25?"}]


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def test_models(client: openai.OpenAI) -> None:
    known = [model.id for model in client.models.list()]
    assert known[:2] == [FINAL_ID, "active"], "then those that a request would load"
    assert client.models.retrieve(FINAL_ID).id == FINAL_ID
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-5")
    assert caught.value.code == "model_not_found"


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="active", messages=QUESTION, temperature=0)
    assert answer.choices[0].message.content == "42"
    assert answer.model == FINAL_ID
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_streamed_chat_is_the_same_in_pieces(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=FINAL_ID,
            messages=QUESTION,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == "42"
    assert 1 <= len([piece for piece in pieces if piece]) <= 2  # what is late comes together
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3


def test_completions_of_several_prompts_keep_their_order(client: openai.OpenAI) -> None:
    template = "<|im_start|>user\nWhat is {}?<|im_end|>\n<|im_start|>assistant\n"
    sums = {"17+25": "42", "10+10": "20", "99+99": "198"}
    answer = client.completions.create(
        model="active", prompt=[template.format(each) for each in sums], temperature=0, max_tokens=8
    )
    assert [choice.text for choice in answer.choices] == list(sums.values())


def test_logprobs(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="active",
        messages=QUESTION,
        temperature=0,
        logprobs=True,
        top_logprobs=3,
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    first = logprobs.content[0]
    assert first.token == "4"
    assert len(first.top_logprobs) == 3
    assert first.logprob == max(other.logprob for other in first.top_logprobs)


def test_several_answers_with_seeds_and_stops(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "active",
        "messages": QUESTION,
        "n": 3,
        "seed": 7,
        "temperature": 1.5,
        "stop": "2",
    }
    first, again = client.chat.completions.create(**asked), client.chat.completions.create(**asked)
    assert [choice.index for choice in first.choices] == [0, 1, 2]
    texts = [choice.message.content or "" for choice in first.choices]
    assert texts == [choice.message.content or "" for choice in again.choices]
    assert not any("2" in text for text in texts)


def test_an_answer_that_keeps_to_a_schema(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="active",
        messages=QUESTION,
        temperature=0,
        max_tokens=20,
        response_format={"type": "json_schema", "json_schema": {"name": "sum", "schema": {"enum": ["forty-two"]}}},
    )
    assert json.loads(answer.choices[0].message.content or "") == "forty-two"


def test_responses(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="active", input="What is 17+25?", temperature=0)
    assert answer.output_text == "42"
    assert answer.usage is not None
    assert answer.usage.output_tokens == 3
    events = list(client.responses.create(model="active", input="What is 17+25?", temperature=0, stream=True))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == "42"
    assert events[-1].type == "response.completed"


def test_the_async_client(server: Server) -> None:
    async def scenario() -> tuple[str | None, str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as sdk:
            whole = await sdk.chat.completions.create(model="active", messages=QUESTION, temperature=0)
            stream = await sdk.chat.completions.create(model="active", messages=QUESTION, temperature=0, stream=True)
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
        return whole.choices[0].message.content, "".join(pieces)

    assert asyncio.run(scenario()) == ("42", "42")


def test_embeddings_that_the_model_cannot_make(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="embeddings") as caught:
        client.embeddings.create(model="active", input="hello")
    assert (caught.value.code, caught.value.param) == ("embeddings_not_supported", "model")


def test_tools_without_a_parser_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="INFERENCE_ENGINE__TOOL_CALL_PARSER"):
        client.chat.completions.create(
            model="active", messages=QUESTION, tools=[{"type": "function", "function": {"name": "add"}}]
        )


def test_a_wrong_model_is_told_what_there_is(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-5", messages=QUESTION)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    assert FINAL_ID in caught.value.message


@pytest.mark.parametrize(
    "body",
    [b'{"model": ', b"[]", b'{"model": 3, "messages": []}', b'{"model": "active"}', b"\xff\xfe", b""],
    ids=["cut off", "a list", "model is a number", "no messages", "not UTF-8", "empty"],
)
def test_a_malformed_body_is_refused_in_the_envelope(server: Server, body: bytes) -> None:
    response = httpx.post(
        f"{server.url}/v1/chat/completions", content=body, headers={"content-type": "application/json"}, timeout=240
    )
    assert response.status_code in (400, 422)
    assert set(response.json()["error"]) >= {"message", "type", "param", "code"}


def test_too_long_a_body_is_refused(server: Server) -> None:
    response = server.http.post("/v1/completions", content=b" " * (33 * 1024 * 1024))
    assert response.status_code == 413
    assert "max_request_bytes" in response.json()["error"]["message"]


def test_a_prompt_longer_than_the_context_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="512"):
        client.completions.create(model="active", prompt="x" * 600)


def test_responses_are_gone_on_from_as_if_all_had_been_said(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "active", "temperature": 0, "max_output_tokens": 8}
    first = client.responses.create(input="What is 17+25?", **asked)
    by_id = client.responses.create(input="What is 20+30?", previous_response_id=first.id, **asked)
    said: list[Any] = [
        {"role": "user", "content": "What is 17+25?"},
        {"role": "assistant", "content": first.output_text},
    ]
    by_hand = client.responses.create(
        input=[*said, {"role": "user", "content": "What is 20+30?"}], store=False, **asked
    )
    talk = client.conversations.create(items=said)
    in_talk = client.responses.create(input="What is 20+30?", conversation=talk.id, **asked)
    for answer in (by_id, in_talk):
        assert answer.usage is not None
        assert by_hand.usage is not None
        assert (answer.output_text, answer.usage.input_tokens) == (by_hand.output_text, by_hand.usage.input_tokens)
    with client.responses.stream(input="What is 1+1?", previous_response_id=by_id.id, **asked) as stream:
        last = stream.get_final_response()
    assert client.responses.retrieve(last.id).output_text == last.output_text
    assert len(client.responses.input_items.list(last.id).data) == 5
    assert len(client.conversations.items.list(talk.id).data) == 4
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(by_hand.id)
