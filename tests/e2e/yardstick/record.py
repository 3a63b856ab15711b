"""Writes requests.jsonl, a request a line: `python -m tests.e2e.yardstick.record`. A name says what is odd about it."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("requests.jsonl")
MODEL = "demo-step-1500"
CHAT, TEXT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"

Json = dict[str, Any]
LEFT_OUT = object()
QUESTION = [{"role": "user", "content": "What is 17+25?"}]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "object", "properties": {"sum": {"type": "integer"}}, "required": ["sum"]}

BASES: dict[str, Json] = {
    CHAT: {"model": MODEL, "messages": QUESTION, "max_tokens": 2, "temperature": 0},
    TEXT: {"model": MODEL, "prompt": "1, 2,", "max_tokens": 2, "temperature": 0},
    RESPONSES: {"model": MODEL, "input": "What is 17+25?", "max_output_tokens": 4, "temperature": 0, "store": False},
    MESSAGES: {"model": MODEL, "messages": QUESTION, "max_tokens": 2, "temperature": 0},
}

# Of both completions routes.
SAMPLING: dict[str, list[Any]] = {
    "temperature": [0.5, 2, -1, 3, "x", None, "0.5", True],
    "top_p": [1, 0.5, 0, 1.5, None],
    "top_k": [-1, 0, 5, -2, "a"],
    "min_p": [0.1, 2],
    "seed": [1, -1, "x", 1 << 70],
    "n": [0, -1, "2", 1.5, 2],
    "stop": ["4", ["4", "2"], "", [], [""], None, 5, ["a"] * 5],
    "max_tokens": [1, 0, -1, "2", None, 1.5, 1_000_000],
    "presence_penalty": [1, 3],
    "frequency_penalty": [-1, -3],
    "repetition_penalty": [1.1, 0, -1],
    "logit_bias": [{}, {"52": 5}, {"x": 1}, {"99999": 1}, []],
    "stream": ["yes", 1, None],
    "model": ["", None, LEFT_OUT, "nope", 5, [MODEL]],
    "min_tokens": [1, 5, -1],
    "ignore_eos": [True],
    "bad_words": [["4"], "4"],
    "allowed_token_ids": [[52, 53], [], [99999]],
    "include_stop_str_in_output": [True],
    "skip_special_tokens": [False],
    "prompt_logprobs": [0, 2, -2],
    "return_token_ids": [True],
    "structured_outputs": [
        {"regex": "[0-9]"}, {"choice": ["a", "b"]}, {"json": SCHEMA}, {"regex": "("}, {"choice": []}, {}, {"x": 1},
    ],
    "user": ["somebody", 5],
    "priority": [0, 5, -1, "x"],
    "truncate_prompt_tokens": [4, -1, 0],
    "unknown_field": [1],
    "request_id": ["mine"],
    "stream_options": [{"include_usage": True}, None],
}  # fmt: skip

FIELDS: dict[str, dict[str, list[Any]]] = {
    CHAT: {
        **SAMPLING,
        "messages": [
            [], None, "x", {}, LEFT_OUT, [{"role": "user"}], [{"role": "user", "content": None}],
            [{"role": "user", "content": ""}], [{"role": "robot", "content": "x"}], [{"content": "x"}], ["x"], [None],
            [{"role": "user", "content": 5}], [{"role": "user", "content": []}],
            [{"role": "user", "content": [{"type": "text", "text": "What is 17+25?"}]}],
            [{"role": "user", "content": [{"type": "text"}]}], [{"role": "user", "content": [{"type": "odd"}]}],
            [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]}],
            [{"role": "system", "content": "x"}, *QUESTION], [*QUESTION, {"role": "assistant", "content": "4"}],
            [{"role": "developer", "content": "x"}, *QUESTION],
            [{"role": "tool", "tool_call_id": "c", "content": "x"}], [{"role": "user", "name": None, "content": "x"}],
            [{"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]}],
        ],
        "max_completion_tokens": [1, 0, -1],
        "logprobs": [True, False, "x", 1],
        "top_logprobs": [1],
        "response_format": [
            {"type": "text"}, {"type": "json_object"}, {"type": "odd"}, None, {}, {"type": "json_schema"},
            {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}},
            {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "odd"}}},
        ],
        "tools": [[], None, [TOOL], [{"type": "odd"}], "x"],
        "tool_choice": ["none", "auto", "required", "odd"],
        "parallel_tool_calls": [True],
        "echo": [True],
        "add_generation_prompt": [False],
        "continue_final_message": [True],
        "chat_template": ["{{ messages[0].content }}"],
        "chat_template_kwargs": [{"enable_thinking": False}, "x"],
        "metadata": [{"a": "b"}],
        "service_tier": ["auto"],
        "store": [True],
        "functions": [[{"name": "add"}]],
    },
    TEXT: {
        **SAMPLING,
        "prompt": [
            "", [], [""], ["a", "b"], [49, 44], [[49], [50, 51]], [49, "a"], None, LEFT_OUT, 5, {"a": 1}, [-1],
            [1 << 30], [[]], "é" * 3,
        ],
        "echo": [True],
        "suffix": ["x"],
        "best_of": [1, 2],
        "logprobs": [0, 2, 6, -1, True],
    },
    RESPONSES: {
        "input": [
            "", [], None, LEFT_OUT, 5, QUESTION, [{"type": "message", **QUESTION[0]}], [{"role": "user"}], ["x"],
            [{"role": "user", "content": [{"type": "input_text", "text": "What is 17+25?"}]}],
            [{"type": "odd"}], [{"type": "function_call_output", "call_id": "c", "output": "x"}],
            [*QUESTION, {"role": "assistant", "content": "4"}],
        ],
        "instructions": ["be brief", 5],
        "max_output_tokens": [1, 0, -1, "x", None],
        "store": [True, "x"],
        "previous_response_id": ["resp_nothing", "nothing", None],
        "conversation": [None],
        "background": [True, False],
        "temperature": [3, None],
        "top_p": [2],
        "text": [{"format": {"type": "text"}}, {"format": {"type": "json_schema", "name": "s", "schema": SCHEMA}}, {}],
        "tools": [[], None, [{"type": "function", "name": "add", "parameters": {}}], [{"type": "odd"}]],
        "tool_choice": ["none", "odd"],
        "include": [[], ["message.output_text.logprobs"], ["odd"]],
        "top_logprobs": [2],
        "truncation": ["auto", "odd"],
        "reasoning": [{"effort": "low"}],
        "metadata": [{"a": "b"}],
        "model": [None, LEFT_OUT, "nope", 5],
        "request_id": ["resp_mine", "mine"],
        "unknown_field": [1],
        "stream": ["x"],
    },
    MESSAGES: {
        "messages": [
            [], None, LEFT_OUT, [{"role": "user"}], [{"role": "odd", "content": "x"}], "x",
            [{"role": "user", "content": [{"type": "text", "text": "What is 17+25?"}]}],
            [{"role": "user", "content": [{"type": "document"}]}], [{"role": "user", "content": [{"type": "odd"}]}],
            [*QUESTION, {"role": "assistant", "content": "4"}],
        ],
        "max_tokens": [1, 0, -1, LEFT_OUT, None],
        "system": ["be brief", [{"type": "text", "text": "x"}], 5],
        "stop_sequences": [["4"], [], "4"],
        "tools": [[], [{"name": "add", "input_schema": {"type": "object"}}], "x"],
        "tool_choice": [{"type": "auto"}, {"type": "odd"}],
        "temperature": [3, None],
        "top_k": [5],
        "metadata": [{"user_id": "x"}],
        "model": ["nope", LEFT_OUT],
        "thinking": [{"type": "disabled"}],
        "unknown_field": [1],
        "stream": ["x"],
    },
}  # fmt: skip

OTHERS: list[tuple[str, str, Any]] = [
    ("/tokenize", "text", {"model": MODEL, "prompt": "1+1"}),
    ("/tokenize", "messages", {"model": MODEL, "messages": QUESTION}),
    ("/tokenize", "names", {"model": MODEL, "prompt": "1+1", "return_token_strs": True}),
    ("/tokenize", "nothing", {}),
    ("/tokenize", "unknown model", {"model": "nope", "prompt": "x"}),
    ("/detokenize", "ids", {"model": MODEL, "tokens": [49, 50]}),
    ("/detokenize", "odd ids", {"model": MODEL, "tokens": ["x"]}),
    ("/detokenize", "large id", {"model": MODEL, "tokens": [1 << 40]}),
    ("/detokenize", "negative id", {"model": MODEL, "tokens": [-1]}),
    ("/v1/embeddings", "text", {"model": MODEL, "input": "x"}),
    ("/v1/messages/count_tokens", "text", {"model": MODEL, "messages": QUESTION}),
    ("/v1/messages/count_tokens", "nothing", {"model": MODEL}),
]

RAW: dict[str, str] = {
    "nothing": "",
    "half": '{"model": "demo-step-1500", ',
    "list": "[]",
    "null": "null",
    "text": '"x"',
    "NaN": '{"model": "demo-step-1500", "prompt": "x", "max_tokens": 1, "temperature": NaN}',
    "infinity": '{"model": "demo-step-1500", "prompt": "x", "max_tokens": 1, "top_p": Infinity}',
    "twice": '{"model": "nope", "model": "demo-step-1500", "prompt": "x", "max_tokens": 1}',
    "more behind it": '{"model": "demo-step-1500", "prompt": "x", "max_tokens": 1} x',
    "deep": '{"model": "demo-step-1500", "prompt": ' + "[" * 500 + "]" * 500 + "}",
    "half a character": '{"model": "demo-step-1500", "prompt": "\\ud800", "max_tokens": 1}',
    "byte order mark": '\ufeff{"model": "demo-step-1500", "prompt": "x", "max_tokens": 1}',
    "comment": '{"model": "demo-step-1500", /* */ "prompt": "x"}',
}
GOOD = json.dumps(BASES[TEXT])


def requests() -> Iterator[Json]:
    for path, base in BASES.items():
        yield _posted(path, "as it is", base)
        yield _posted(path, "streamed", base | {"stream": True})
        for field, values in FIELDS[path].items():
            for value in values:
                body = base | {field: value}
                if value is LEFT_OUT:
                    del body[field]
                shown = "left out" if value is LEFT_OUT else json.dumps(value)
                yield _posted(path, f"{field} {shown[:90]}", body)
    yield from _combined()
    for path, name, body in OTHERS:
        yield _posted(path, name, body)
    for name, raw in RAW.items():
        yield {"name": f"POST {TEXT} raw: {name}", "method": "POST", "path": TEXT, "raw": raw}
    yield {"name": f"POST {TEXT} raw: latin-1", "method": "POST", "path": TEXT, "hex": b'{"prompt": "\xe9"}'.hex()}
    yield from _transported()


def _combined() -> Iterator[Json]:
    chat, text = BASES[CHAT], BASES[TEXT]
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    yield _posted(CHAT, "streamed with usage", chat | usage)
    yield _posted(TEXT, "streamed with usage", text | usage)
    yield _posted(CHAT, "streamed with usage in each", chat | {"stream": True, "stream_options": {
        "include_usage": True, "continuous_usage_stats": True}})  # fmt: skip
    yield _posted(CHAT, "log-probabilities", chat | {"logprobs": True, "top_logprobs": 2})
    yield _posted(CHAT, "log-probabilities streamed", chat | {"logprobs": True, "top_logprobs": 2, "stream": True})
    yield _posted(CHAT, "too many log-probabilities", chat | {"logprobs": True, "top_logprobs": 21})
    yield _posted(CHAT, "two of them", chat | {"n": 2, "temperature": 1, "seed": 1})
    yield _posted(CHAT, "two of them streamed", chat | {"n": 2, "temperature": 1, "seed": 1, "stream": True})
    yield _posted(CHAT, "refused in a stream", chat | {"temperature": -1, "stream": True})
    yield _posted(CHAT, "unknown model in a stream", chat | {"model": "nope", "stream": True})
    yield _posted(TEXT, "two prompts streamed", text | {"prompt": ["1", "2"], "stream": True})
    yield _posted(TEXT, "echo and log-probabilities", text | {"echo": True, "logprobs": 1})
    yield _posted(TEXT, "echo of nothing more", text | {"echo": True, "max_tokens": 0})
    yield _posted(TEXT, "too long", text | {"prompt": "1" * 3000})
    yield _posted(CHAT, "too long", chat | {"messages": [{"role": "user", "content": "1" * 3000}]})
    yield _posted(CHAT, "tools and a choice of one", chat | {"tools": [TOOL], "tool_choice": {
        "type": "function", "function": {"name": "add"}}})  # fmt: skip
    yield _posted(CHAT, "tools and an unknown choice", chat | {"tools": [TOOL], "tool_choice": {
        "type": "function", "function": {"name": "nope"}}})  # fmt: skip
    yield _posted(CHAT, "tools and none", chat | {"tools": [TOOL], "tool_choice": "none"})
    yield _posted(RESPONSES, "unknown model in a stream", BASES[RESPONSES] | {"model": "nope", "stream": True})


def _transported() -> Iterator[Json]:
    yield {"name": "GET /v1/models", "method": "GET", "path": "/v1/models"}
    for method, path in (
        ("GET", CHAT), ("PUT", CHAT), ("DELETE", TEXT), ("HEAD", CHAT), ("OPTIONS", CHAT), ("GET", "/v1/nothing"),
        ("POST", "/v1/nothing"), ("POST", CHAT + "/nothing"), ("POST", "/v1"), ("GET", "/v1/responses/resp_nothing"),
        ("POST", "/v1/responses/resp_nothing/cancel"), ("GET", RESPONSES), ("GET", "/tokenize"),
    ):  # fmt: skip
        yield {"name": f"{method} {path}", "method": method, "path": path}
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-8", ""):
        yield {"name": f"POST {TEXT} as {kind or 'nothing'}", "method": "POST", "path": TEXT, "raw": GOOD,
               "headers": {"content-type": kind} if kind else {}}  # fmt: skip
    packed = gzip.compress(GOOD.encode(), mtime=0).hex()
    yield {"name": f"POST {TEXT} gzip", "method": "POST", "path": TEXT, "hex": packed,
           "headers": {"content-type": "application/json", "content-encoding": "gzip"}}  # fmt: skip
    yield {"name": f"POST {CHAT}/ with a slash", "method": "POST", "path": CHAT + "/", "body": BASES[CHAT]}
    yield {"name": f"POST {TEXT}?x=1", "method": "POST", "path": TEXT + "?x=1", "body": BASES[TEXT]}


def _posted(path: str, name: str, body: Json) -> Json:
    return {"name": f"POST {path} {name}", "method": "POST", "path": path, "body": body}


def main() -> None:
    lines = [json.dumps(each) for each in requests()]
    FILE.write_text("\n".join(lines) + "\n")
    print(f"{len(lines)} requests")


if __name__ == "__main__":
    main()
