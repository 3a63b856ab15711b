"""What clients may ask an answer to be held to, and should not: bodies by name, and the statuses that are right."""

import json
from typing import Any

Json = dict[str, Any]

CHAT: Json = {"model": "active", "messages": [{"role": "user", "content": "17+25="}], "max_tokens": 8}
_FORM: Json = {"type": "json_schema"}
COMPLETION: Json = {"model": "active", "prompt": "17+25=", "max_tokens": 40, "temperature": 0.0}
# Served, or refused because it was too slow: which of both depends on the machine. Never anything else.
SERVED_OR_REFUSED = frozenset({200, 400})
SERVED = frozenset({200})
REFUSED = frozenset({400})


def _properties(count: int, **more: Any) -> Json:
    return {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(count)}, **more}


def _deep(levels: int) -> Json:
    schema: Json = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def _chained(count: int) -> Json:
    definitions: Json = {
        f"d{i}": {"type": "object", "properties": {name: {"$ref": f"#/$defs/d{i + 1}"} for name in "abcdef"}}
        for i in range(count)
    }
    return {"$defs": definitions | {f"d{count}": {"type": "string"}}, "$ref": "#/$defs/d0"}


_SCHEMAS: dict[str, tuple[frozenset[int], Any]] = {
    "twenty thousand properties": (REFUSED, _properties(20_000)),
    "four thousand properties": (REFUSED, _properties(4_000)),
    "a thousand required properties": (SERVED_OR_REFUSED, _properties(1_000, required=[f"p{i}" for i in range(1_000)])),
    "fifty thousand enum values": (REFUSED, {"enum": [f"value {i}" for i in range(50_000)]}),
    "five hundred levels": (REFUSED, _deep(500)),
    "a schema of itself": (REFUSED, {"$ref": "#"}),
    "two definitions that name each other": (
        REFUSED,
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    ),
    "an object that must hold itself": (
        SERVED_OR_REFUSED,
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"], "additionalProperties": False},
    ),
    "a definition that is not there": (REFUSED, {"$ref": "#/$defs/nowhere"}),
    "nothing fulfils a range": (REFUSED, {"type": "integer", "minimum": 5, "maximum": 3}),
    "nothing fulfils a length": (REFUSED, {"type": "string", "minLength": 5, "maxLength": 3}),
    "definitions that multiply": (SERVED_OR_REFUSED, _chained(20)),
    "a pattern that multiplies": (
        SERVED_OR_REFUSED,
        {"type": "string", "pattern": "^(((a{1,1000}){1,1000}){1,1000})$"},
    ),
    "a pattern of a million characters": (REFUSED, {"type": "string", "pattern": "a" * 1_000_000}),
    "patterns for names": (
        SERVED_OR_REFUSED,
        {"type": "object", "patternProperties": {f"^{i}.*.*.*$": {"type": "string"} for i in range(300)}},
    ),
    "a million items": (SERVED_OR_REFUSED, {"type": "array", "items": {"type": "string"}, "minItems": 1_000_000}),
    "five thousand prefix items": (REFUSED, {"type": "array", "prefixItems": [{"type": "string"}] * 5_000}),
    "a type that there is not": (REFUSED, {"type": "nothing of the kind"}),
    "properties that are a list": (REFUSED, {"type": "object", "properties": ["a"]}),
    "what one back end cannot do": (SERVED, {"type": "integer", "multipleOf": 2, "minimum": 0, "maximum": 100}),
    "what two back ends cannot do": (
        SERVED_OR_REFUSED,
        {
            "type": "array",
            "uniqueItems": True,
            "items": {"type": "object", "patternProperties": {"^a": {"type": "null"}}},
        },
    ),
}

_OTHERS: dict[str, tuple[frozenset[int], Json]] = {
    "a regex of nested counts": (SERVED_OR_REFUSED, {"regex": "((a{1,1000}){1,1000}){1,1000}"}),
    "a regex of many classes": (SERVED_OR_REFUSED, {"regex": r"([a-z]|[b-y]|\w|\d){1,2000}" * 10}),
    "a regex of many words": (SERVED_OR_REFUSED, {"regex": "abc|def" * 500}),
    "a regex of a megabyte": (REFUSED, {"regex": "abc|def" * 150_000}),
    "a regex of fifty thousand brackets": (REFUSED, {"regex": "(" * 50_000 + "a" + ")" * 50_000}),
    "a regex of two thousand brackets": (REFUSED, {"regex": "(" * 2_000 + "a" + ")" * 2_000}),
    "a regex that looks ahead": (SERVED_OR_REFUSED, {"regex": "(?=a)b"}),
    "a regex that does not end": (REFUSED, {"regex": "(a"}),
    "a grammar that only leads to itself": (REFUSED, {"grammar": 'root ::= a\na ::= a "x"'}),
    "a grammar that is ambiguous": (
        SERVED_OR_REFUSED,
        {"grammar": 'root ::= a a a a a a a a\na ::= b b b b b b | "x"\nb ::= c c c c c c | ""\nc ::= a | "x" | b c'},
    ),
    "a grammar of a million times": (SERVED_OR_REFUSED, {"grammar": 'root ::= (("a" | "b"){1,1000}){1,1000}'}),
    "a grammar with a rule that is not there": (REFUSED, {"grammar": "root ::= nowhere"}),
    "a grammar of fifty thousand brackets": (REFUSED, {"grammar": "root ::= " + "(" * 50_000 + '"a"' + ")" * 50_000}),
    "a grammar of three thousand brackets": (REFUSED, {"grammar": "root ::= " + "(" * 3_000 + '"a"' + ")" * 3_000}),
    "a Lark grammar of itself": (REFUSED, {"grammar": "start: start"}),
    "an empty grammar": (REFUSED, {"grammar": " "}),
    "a hundred thousand choices": (REFUSED, {"choice": [f"choice {i}" for i in range(100_000)]}),
    "no choice": (REFUSED, {"choice": []}),
    "a choice of nothing": (SERVED_OR_REFUSED, {"choice": [""]}),
    "schema text that is no JSON": (REFUSED, {"json": "{"}),
    "a schema as text": (REFUSED, {"json": json.dumps(_properties(20_000))}),
    "two kinds at once": (REFUSED, {"regex": "a", "choice": ["a"]}),
    "json_object false": (REFUSED, {"json_object": False}),
    "a structural tag that is none": (REFUSED, {"structural_tag": "{}"}),
    "a structural tag of twenty thousand properties": (
        REFUSED,
        {
            "structural_tag": json.dumps(
                {"structures": [{"begin": "<a>", "schema": _properties(20_000), "end": "</a>"}], "triggers": ["<a>"]}
            )
        },
    ),
    "a structural tag of itself": (
        SERVED_OR_REFUSED,
        {
            "structural_tag": json.dumps(
                {"structures": [{"begin": "<a>", "schema": {"$ref": "#"}, "end": "</a>"}], "triggers": ["<a>"]}
            )
        },
    ),
}


def _tool(schema: Json, name: str = "f") -> Json:
    return {"type": "function", "function": {"name": name, "parameters": schema}}


SLOW = frozenset(
    {"patterns for names", "what two back ends cannot do", "a regex of many classes", "a grammar that is ambiguous"}
)
"""Those that take all of their deadline: one of a kind is enough for a test."""


def hostile() -> dict[str, tuple[frozenset[int], str, Json]]:
    """By name: the statuses that are right, the path and the body."""
    asked: dict[str, tuple[frozenset[int], str, Json]] = {}
    for name, (right, schema) in _SCHEMAS.items():
        form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
        asked[name] = (right, "/v1/chat/completions", CHAT | {"response_format": form})
    for name, (right, held) in _OTHERS.items():
        asked[name] = (right, "/v1/completions", COMPLETION | {"structured_outputs": held})
    large = _properties(20_000)
    named = {"type": "function", "function": {"name": "f"}}
    asked |= {
        "a tool of twenty thousand properties": (
            REFUSED, "/v1/chat/completions", CHAT | {"tools": [_tool(large)], "tool_choice": named},
        ),
        "a tool of itself": (
            REFUSED, "/v1/chat/completions", CHAT | {"tools": [_tool({"$ref": "#"})], "tool_choice": named},
        ),
        "ten thousand tools": (
            REFUSED,
            "/v1/chat/completions",
            CHAT | {"tools": [_tool(_properties(3), f"f{i}") for i in range(10_000)], "tool_choice": "required"},
        ),
        "text.format": (
            REFUSED,
            "/v1/responses",
            {"model": "active", "input": "1", "text": {"format": _FORM | {"name": "a", "schema": large}}},
        ),
        "an Anthropic tool": (
            REFUSED,
            "/v1/messages",
            CHAT | {"tools": [{"name": "f", "input_schema": large}], "tool_choice": {"type": "tool", "name": "f"}},
        ),
        "Ollama's format": (REFUSED, "/api/chat", CHAT | {"format": large, "stream": False}),
        "Ollama's format of itself": (REFUSED, "/api/chat", CHAT | {"format": {"$ref": "#"}, "stream": False}),
        "a tag as a format": (
            REFUSED,
            "/v1/chat/completions",
            CHAT | {"response_format": {"type": "structural_tag", "format": _FORM | {"json_schema": large}}},
        ),
        "a back end of its own choice": (
            SERVED_OR_REFUSED,
            "/v1/completions",
            COMPLETION | {"structured_outputs": {"choice": ["a"], "_backend": "outlines", "_backend_was_auto": True}},
        ),
    }  # fmt: skip
    return asked
