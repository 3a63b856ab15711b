"""Other SDKs than openai's, unchanged, against the server; and batches as openai's own example makes them."""

import io
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from anthropic.types import MessageParam
from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from tests.e2e.server import FINAL_ID, Server
from tests.eventually import wait_until

QUESTION: MessageParam = {"role": "user", "content": "What is 17+25?"}
GREEDY = {"temperature": 0}


@pytest.fixture
def claude(server: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as sdk:
        yield sdk


@pytest.fixture
def openai_sdk(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def test_anthropic_messages(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(model="active", max_tokens=8, extra_body=GREEDY, messages=[QUESTION])
    (block,) = answer.content
    assert block.type == "text"
    assert block.text == "42"
    assert (answer.stop_reason, answer.model, answer.usage.output_tokens) == ("end_turn", FINAL_ID, 3)


def test_anthropic_streams(claude: anthropic.Anthropic) -> None:
    with claude.messages.stream(model="active", max_tokens=8, extra_body=GREEDY, messages=[QUESTION]) as stream:
        assert "".join(stream.text_stream) == "42"
        assert stream.get_final_message().usage.output_tokens == 3


@pytest.mark.parametrize("stream", [False, True])
def test_anthropic_prefills_are_continued(claude: anthropic.Anthropic, stream: bool) -> None:
    turns: list[MessageParam] = [QUESTION, {"role": "assistant", "content": "4"}]
    asked: dict[str, Any] = {"model": FINAL_ID, "max_tokens": 8, "extra_body": GREEDY, "messages": turns}
    if stream:
        with claude.messages.stream(**asked) as pieces:
            assert pieces.get_final_text() == "2"
    else:
        (block,) = claude.messages.create(**asked).content
        assert block.type == "text"
        assert block.text == "2"


def test_anthropic_counts_tokens(claude: anthropic.Anthropic) -> None:
    counted = claude.messages.count_tokens(model="active", messages=[QUESTION])
    assert counted.input_tokens == 33


def test_anthropic_errors_are_its_own(claude: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as caught:
        claude.messages.create(model="claude-x", max_tokens=8, messages=[{"role": "user", "content": "hi"}])
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == "not_found_error"


def test_langchain(server: Server) -> None:
    chat = ChatOpenAI(model="active", base_url=f"{server.url}/v1", api_key=SecretStr("none"), temperature=0)
    assert chat.invoke([HumanMessage("What is 17+25?")]).content == "42"
    assert "".join(str(piece.content) for piece in chat.stream("What is 17+25?")) == "42"


def test_a_batch_from_upload_to_output(openai_sdk: openai.OpenAI) -> None:
    sums = {f"request-{number}": number for number in range(10, 50)}
    lines = [
        {
            "custom_id": custom_id,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {
                "model": FINAL_ID,
                "temperature": 0,
                "max_tokens": 8,
                "messages": [{"role": "user", "content": f"What is {number}+25?"}],
            },
        }
        for custom_id, number in sums.items()
    ]
    lines.append({**lines[0], "custom_id": "bad", "body": {"model": FINAL_ID, "messages": [], "max_tokens": -1}})
    content = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    uploaded = openai_sdk.files.create(file=("requests.jsonl", io.BytesIO(content)), purpose="batch")
    assert uploaded.bytes == len(content)
    batch = openai_sdk.batches.create(
        input_file_id=uploaded.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"description": "additions"},
    )
    wait_until("the batch is over", lambda: openai_sdk.batches.retrieve(batch.id).status == "completed", 240.0)
    batch = openai_sdk.batches.retrieve(batch.id)
    assert batch.metadata == {"description": "additions"}
    assert batch.request_counts is not None
    assert (batch.request_counts.completed, batch.request_counts.failed) == (40, 1)
    assert batch.output_file_id is not None
    assert batch.error_file_id is not None
    answers = [json.loads(line) for line in openai_sdk.files.content(batch.output_file_id).text.splitlines()]
    said = {each["custom_id"]: each["response"]["body"]["choices"][0]["message"]["content"] for each in answers}
    right = [custom_id for custom_id, number in sums.items() if said[custom_id] == str(number + 25)]
    assert len(right) >= 38
    assert json.loads(openai_sdk.files.content(batch.error_file_id).text)["response"]["status_code"] == 400
    assert batch.id in [each.id for each in openai_sdk.batches.list()]
    assert uploaded.id in [each.id for each in openai_sdk.files.list(purpose="batch")]
    assert openai_sdk.files.delete(uploaded.id).deleted


def test_a_batch_of_nothing_is_refused_with_its_line(openai_sdk: openai.OpenAI) -> None:
    uploaded = openai_sdk.files.create(file=("requests.jsonl", b'{"custom_id": 1}\n'), purpose="batch")
    with pytest.raises(openai.BadRequestError, match="line 1: custom_id"):
        openai_sdk.batches.create(input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h")
