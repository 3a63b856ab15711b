"""A server with parsers for tools and thinking, aliases and presets, on a checkpoint with the tags for thinking."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import ollama
import openai
import pytest
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import SecretStr

from tests.e2e.server import FINAL, Server

QUESTION: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is 17+25?"}]
PARAMETERS = {
    "type": "object",
    "properties": {"a": {"type": "integer", "enum": [17]}, "b": {"type": "integer", "enum": [25]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
TOOL: ChatCompletionToolParam = {
    "type": "function",
    "function": {"name": "add", "description": "Adds.", "parameters": PARAMETERS},
}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 17, "b": 25}}\n</tool_call>'
AT_ONCE = {"chat_template_kwargs": {"enable_thinking": False}}


def with_thinking_tags(source: Path, target: Path) -> None:
    """The demo checkpoint with `<think>` and `</think>` in its vocabulary; it never learned to say them by itself."""
    shutil.copytree(source, target)
    tokenizer = json.loads((target / "tokenizer.json").read_text())
    size = len(tokenizer["model"]["vocab"]) + len(tokenizer["added_tokens"])
    for number, tag in enumerate(("<think>", "</think>")):
        tokenizer["added_tokens"].append(
            {
                "id": size + number, "content": tag, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": False,
            }
        )  # fmt: skip
    (target / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((target / "config.json").read_text())
    config["vocab_size"] = size + 2
    (target / "config.json").write_text(json.dumps(config))
    weights = target / "model.safetensors"
    weights.write_bytes(with_rows(weights.read_bytes(), size, 2))


def with_rows(safetensors: bytes, rows: int, more: int) -> bytes:
    """Adds rows of zeros to every tensor that has so many."""
    length = int.from_bytes(safetensors[:8], "little")
    header, data = json.loads(safetensors[8 : 8 + length]), safetensors[8 + length :]
    pieces: list[bytes] = []
    at = 0
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        start, end = tensor["data_offsets"]
        piece = data[start:end]
        if tensor["shape"][0] == rows:
            piece += bytes(more * (len(piece) // rows))
            tensor["shape"][0] += more
        pieces.append(piece)
        tensor["data_offsets"] = [at, at + len(piece)]
        at += len(piece)
    written = json.dumps(header).encode()
    return len(written).to_bytes(8, "little") + written + b"".join(pieces)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("parsers")
    checkpoint = tmp_path_factory.mktemp("checkpoint") / "thinker"
    with_thinking_tags(FINAL, checkpoint)
    aliases = {"gpt-4o": "active", "one-token": {"temperature": 0, "max_tokens": 1}}
    settings = {
        "model_path": checkpoint,
        "engine__tool_call_parser": "hermes",
        "engine__reasoning_parser": "qwen3",
        "aliases": json.dumps(aliases),
        "unknown_model": "active",
    }
    with Server(base, **settings) as running:
        running.wait_ready()
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def saying(text: str) -> dict[str, Any]:
    """Makes the model say a text, so that a parser has it to read."""
    return {"structured_outputs": {"choice": [text]}, **AT_ONCE}


def test_a_tool_that_the_model_chooses(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="gpt-4o", messages=QUESTION, tools=[TOOL], temperature=0, extra_body=saying(CALL), max_tokens=200
    )
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "add"
    assert json.loads(call.function.arguments) == {"a": 17, "b": 25}
    turn: list[ChatCompletionMessageParam] = [
        *QUESTION,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": call.function.arguments},
                }
            ],
        },
        {"role": "tool", "tool_call_id": call.id, "content": "42"},
    ]
    after = client.chat.completions.create(
        model="active", messages=turn, tools=[TOOL], temperature=0, max_tokens=8, extra_body=AT_ONCE
    )
    assert after.choices[0].message.content is not None


def test_a_streamed_tool_call(client: openai.OpenAI) -> None:
    chunks = client.chat.completions.create(
        model="active",
        messages=QUESTION,
        tools=[TOOL],
        temperature=0,
        extra_body=saying(CALL),
        max_tokens=200,
        stream=True,
    )
    deltas = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    assert [call.function.name for call in deltas if call.function and call.function.name] == ["add"]
    arguments = "".join(call.function.arguments or "" for call in deltas if call.function)
    assert json.loads(arguments) == {"a": 17, "b": 25}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
def test_a_tool_that_must_be_called(client: openai.OpenAI, choice: Any) -> None:
    """With `strict` its arguments keep to the schema, though this model never learned of tools."""
    strict: Any = {"type": "function", "function": {**TOOL["function"], "strict": True}}
    answer = client.chat.completions.create(
        model="active",
        messages=QUESTION,
        tools=[strict],
        tool_choice=choice,
        parallel_tool_calls=False,
        temperature=0,
        max_tokens=200,
        extra_body=AT_ONCE,
    )
    (call,) = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "add"
    assert json.loads(call.function.arguments) == {"a": 17, "b": 25}


def test_ollamas_tools(server: Server) -> None:
    """Ollama has no way to force a call: that tools are taken, and what is said is answered."""
    with ollama.Client(host=server.url, trust_env=False) as sdk:
        assert "tools" in (sdk.show("active").capabilities or ())
        assert "thinking" in (sdk.show("active").capabilities or ())
        parts = list(sdk.chat("active", QUESTION, tools=[TOOL], options={"num_predict": 4}, stream=True))
        assert parts[-1].done


def test_thinking_that_does_not_end(client: openai.OpenAI) -> None:
    """This parser takes all for thinking until it is closed, and this model closes nothing by itself."""
    thought = client.chat.completions.create(model="active", messages=QUESTION, temperature=0)
    message = thought.choices[0].message.model_dump()
    assert (message["content"], message["reasoning_content"], message["reasoning"]) == (None, "42", "42")
    said = client.chat.completions.create(model="active", messages=QUESTION, temperature=0, extra_body=AT_ONCE)
    message = said.choices[0].message.model_dump()
    assert (message["content"], message["reasoning_content"]) == ("42", None)


def test_thinking_apart_from_the_answer(client: openai.OpenAI, server: Server) -> None:
    """Whatever is drawn from these tokens: the raw text and its two parts are the same."""
    url, prompt = f"{server.url}/tokenize", "<|im_start|>user\nWhat is 17+25?<|im_end|>\n<|im_start|>assistant\n"
    drawn = server.http.post(url, json={"model": "active", "prompt": "42</think>", "add_special_tokens": False}).json()
    options: dict[str, Any] = {"allowed_token_ids": drawn["tokens"], "ignore_eos": True}
    closed = 0
    for seed in range(8):
        raw = client.completions.create(
            model="active", prompt=prompt, temperature=2, seed=seed, max_tokens=8, extra_body=options
        )
        before, tag, after = raw.choices[0].text.partition("</think>")
        whole = client.chat.completions.create(
            model="active", messages=QUESTION, temperature=2, seed=seed, max_tokens=8, extra_body=options
        )
        message = whole.choices[0].message.model_dump()
        chunks = client.chat.completions.create(
            model="active", messages=QUESTION, temperature=2, seed=seed, max_tokens=8, extra_body=options, stream=True
        )
        deltas = [choice.delta.model_dump() for chunk in chunks for choice in chunk.choices]
        answer = after.replace("</think>", "")  # once it is closed, the tag means nothing and is left out
        assert (message["reasoning_content"] or "", message["content"] or "") == (before, answer)
        assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == before
        closed += bool(tag and before and answer)
    assert closed


def test_presets(client: openai.OpenAI, server: Server) -> None:
    short = client.chat.completions.create(model="one-token", messages=QUESTION, extra_body=AT_ONCE)
    assert (short.choices[0].message.content, short.choices[0].finish_reason) == ("4", "length")
    longer = client.chat.completions.create(
        model="one-token", messages=QUESTION, max_completion_tokens=5, extra_body=AT_ONCE
    )
    assert longer.choices[0].message.content == "42"
    native = server.http.post("/chat", json={"model": "one-token", "messages": QUESTION}).json()
    assert (native["message"]["thinking"], native["done_reason"], native["eval_count"]) == ("4", "length", 1)
    claude = anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)
    with claude:
        answer = claude.messages.create(
            model="one-token", max_tokens=5, messages=[{"role": "user", "content": "What is 17+25?"}]
        )
        assert answer.usage.output_tokens == 3


def test_an_unknown_name_gets_the_active_model(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="gpt-5", messages=QUESTION, temperature=0, extra_body=AT_ONCE)
    assert answer.choices[0].message.content == "42"
    assert answer.model == "thinker"


def test_langchain_calls_a_tool(server: Server) -> None:
    function: dict[str, Any] = {**TOOL["function"], "strict": True}
    chat = ChatOpenAI(
        model="active",
        base_url=f"{server.url}/v1",
        api_key=SecretStr("none"),
        temperature=0,
        extra_body={**AT_ONCE, "parallel_tool_calls": False, "max_tokens": 200},
    )
    bound = chat.bind_tools([{"type": "function", "function": function}], tool_choice="add")
    answer = bound.invoke("What is 17+25?")
    assert isinstance(answer, AIMessage)
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("add", {"a": 17, "b": 25})]
