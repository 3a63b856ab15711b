"""Requests by which one client could stop a server for all others, each with the least rights that suffice for it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_ADDITION = "1+1="
_CHAT, _COMPLETION = "/v1/chat/completions", "/v1/completions"
# Both compile at once, or nearly, and are slow to follow.
_MANY_MEANINGS = 'root ::= a a a a a a a a\na ::= b b b b b b | "x"\nb ::= c c c c c c | ""\nc ::= a | "x" | b c'
_PATTERNS = {"type": "object", "patternProperties": {f"^{i}.*.*.*$": {"type": "string"} for i in range(300)}}


@dataclass(frozen=True, slots=True)
class Abuse:
    """`body` makes the bytes of a client's request, by the client's number (up to 100 MB, so only when they are sent);
    `at_once` clients send together.
    """

    name: str
    path: str
    body: Callable[[int], bytes]
    at_once: int = 1


def abuses() -> list[Abuse]:
    return [*_multiples(), *_long_texts(), *_long_lists(), *_structures(), *_ordinary(), *_malformed(), *_jobs()]


def _multiples() -> list[Abuse]:
    many = {"n": 16_384, "max_tokens": 1, "temperature": 1}
    return [
        _case("n x 100 prompts", _COMPLETION, prompt=[_ADDITION] * 100, **many),
        _case("n x 6 prompts, 4 clients", _COMPLETION, at_once=4, prompt=[_ADDITION] * 6, **many),
        _case("n of a chat", _CHAT, messages=_user(_ADDITION), **many),
        _case("200,000 prompts", _COMPLETION, prompt=[_ADDITION] * 200_000, max_tokens=1),
        _case("best_of", _COMPLETION, prompt=_ADDITION, best_of=16_384, max_tokens=1),
        _case("num_return_sequences", "/generate", prompt=_ADDITION, num_return_sequences=16_384, max_tokens=1),
    ]


def _long_texts() -> list[Abuse]:
    text = "ab " * 10_000_000
    return [
        _case("tokenize 30 MB", "/tokenize", prompt=text),
        _case("tokenize 30 MB, 4 clients", "/tokenize", at_once=4, prompt=text),
        _case("a prompt to be truncated", _COMPLETION, prompt=text, truncate_prompt_tokens=10, max_tokens=1),
        _case("a chat of 30 MB", _CHAT, messages=_user(text)),
        _case("an Anthropic message of 30 MB", "/v1/messages", messages=_user(text), max_tokens=1),
        _case("an Ollama prompt of 30 MB", "/api/generate", prompt=text),
        _case("a problem of 30 MB", "/solve/math", problem=text),
        _case("a model's name of 1 MB", _CHAT, messages=_user("1"), model="x" * 1_000_000),
        _case("a stop string of 10 MB", _COMPLETION, prompt="1", stop="x" * 10_000_000),
    ]


def _long_lists() -> list[Abuse]:
    parts = [{"type": "text", "text": "a"}] * 200_000
    return [
        _case("detokenize 5 M tokens", "/detokenize", tokens=[1] * 5_000_000),
        _case("bad_words 8 x 2 MB", _COMPLETION, prompt="1", bad_words=["ab " * 700_000] * 8),
        _case("200,000 content parts", _CHAT, messages=[{"role": "user", "content": parts}]),
        _case("200,000 messages", _CHAT, messages=_user("a") * 200_000),
        _case("200,000 parts of a system prompt", "/v1/messages", messages=_user("1"), system=parts),
        _case("200,000 items of a response's input", "/v1/responses", input=_user("a") * 200_000),
        _case("3 M allowed tokens", _COMPLETION, prompt="1", allowed_token_ids=[1] * 3_000_000),
        _case("300,000 biased tokens", _COMPLETION, prompt="1", logit_bias={str(key): 1 for key in range(300_000)}),
        _case("200,000 stop strings", _COMPLETION, prompt="1", stop=["x"] * 200_000),
    ]


def _structures() -> list[Abuse]:
    circle = {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}
    nested: dict[str, Any] = {"type": "string"}
    for _ in range(200):
        nested = {"type": "object", "properties": {"a": nested}, "required": ["a"]}
    grammar = "root ::= " + " | ".join(f'"{number}"' for number in range(50_000))
    tool = {"type": "function", "function": {"name": "f", "parameters": _schema(20_000)}}
    return [
        _structured("a schema of 20,000 properties", json=_schema(20_000)),
        _structured("a schema of 4,000 properties, 4 clients", at_once=4, json=_schema(4_000)),
        _structured("a schema of itself", json={"$ref": "#"}),
        _structured("a schema in a circle", json=circle),
        _structured("a schema 200 deep", json=nested),
        _structured("an enum of 100,000", json={"enum": [f"value {number}" for number in range(100_000)]}),
        _structured("an expression that explodes", regex="((a{1,1000}){1,1000}){1,1000}"),
        _structured("an expression of 1 MB", regex="(ab|cd)" * 150_000),
        _structured("a grammar of 50,000 choices", grammar=grammar),
        _structured("a grammar of many meanings", grammar=_MANY_MEANINGS),
        _structured("300 patterns for names", json=_PATTERNS),
        _structured("100,000 choices", choice=[f"choice {number}" for number in range(100_000)]),
        _case("a tool of 20,000 properties", _CHAT, messages=_user("1"), tools=[tool], tool_choice="required"),
        _case("an Ollama format of 20,000 properties", "/api/chat", messages=_user("1"), format=_schema(20_000)),
    ]


def _ordinary() -> list[Abuse]:
    """What anybody may ask; it was together that these ended an engine."""
    long = {"prompt": "7", "min_tokens": 60, "max_tokens": 60}
    widths = (None, 1, 2, 3, 5, 5)
    several = Abuse(
        "log-probabilities, 6 widths",
        _COMPLETION,
        lambda number: _encoded(model="active", logprobs=widths[number], **long)(number),
        len(widths),
    )
    endless = {"prompt": "7", "max_tokens": 400, "ignore_eos": True}
    return [several, _case("300 long answers", _COMPLETION, at_once=300, **endless)]


def _malformed() -> list[Abuse]:
    deep = b'{"model":"active","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    bodies = {
        "lists 100,000 deep": deep,
        "no UTF-8": b'{"model":"active","prompt":"\xff\xfe"}',
        "a number of 5,000 digits": b'{"model":"active","max_tokens":' + b"9" * 5000 + b',"prompt":"1"}',
        "100 MB of spaces": b" " * 100_000_000,
        "half a body": b'{"model":' * 3,
    }
    return [Abuse(name, _COMPLETION, _as_it_is(body)) for name, body in bodies.items()]


def _jobs() -> list[Abuse]:
    slow = "{% for turn in turns %}{{ text | replace('a', 'bb') | upper | length }}{% endfor %}{{ a }}"
    rows = [{"a": "1", "text": "", "turns": []}, {"a": "2", "text": "a " * 150_000, "turns": ["x"] * 3000}]
    custom = {"template": slow, "rows": rows, "num_examples": 2, "verify": "none"}
    many = {"name": "many", "dataset_ref": "math_eval.jsonl", "n": 16_384, "max_samples": 100}
    return [
        Abuse(
            "a template that takes minutes",
            "/data_gen/jobs",
            _encoded(model_id="active", strategy="custom", config=custom),
        ),
        Abuse(
            "data generation with a schema of 20,000 properties",
            "/data_gen/jobs",
            _encoded(model_id="active", strategy="custom", config=custom | {"json_schema": _schema(20_000)}),
        ),
        Abuse("an eval of 16,384 answers each", "/eval/jobs", _encoded(model_id="active", **many)),
    ]


def _case(name: str, path: str, *, at_once: int = 1, **fields: Any) -> Abuse:
    return Abuse(name, path, _encoded(**{"model": "active", "max_tokens": 8} | fields), at_once)


def _structured(name: str, *, at_once: int = 1, **structure: Any) -> Abuse:
    return _case(name, _CHAT, at_once=at_once, messages=_user("1"), structured_outputs=structure)


def _as_it_is(body: bytes) -> Callable[[int], bytes]:
    return lambda _number: body


def _encoded(**fields: Any) -> Callable[[int], bytes]:
    return lambda _number: json.dumps(fields).encode()


def _user(content: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def _schema(properties: int) -> dict[str, Any]:
    names = [f"property_{number}" for number in range(properties)]
    return {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": names}
