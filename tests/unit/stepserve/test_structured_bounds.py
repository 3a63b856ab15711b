"""How large what an answer is held to may be; nothing is compiled here."""

import json
from typing import Any

import msgspec
import pytest

from stepserve.structured_bounds import StructuredLimits, TooMuch, check_members, check_value

LIMITS = StructuredLimits(
    max_bytes=20_000, max_properties=100, max_enum_values=50, max_depth=20, max_pattern_bytes=100, max_grammar_bytes=200
)


def _members(body: str) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(body, type=dict[str, msgspec.Raw])


def _object(count: int) -> dict[str, Any]:
    return {"type": "object", "properties": {f"p{i}": {} for i in range(count)}}


def _nested(levels: int) -> dict[str, Any]:
    return {"items": _nested(levels - 1)} if levels else {}


def _format(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}}


def _tools(schema: Any, count: int = 1) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": {"name": f"f{i}", "parameters": schema}} for i in range(count)]}


TAG = {"structures": [{"begin": "<a>", "schema": _object(101), "end": "</a>"}], "triggers": ["<a>"]}


@pytest.mark.parametrize(
    ("body", "field", "setting"),
    [
        (_format(_object(101)), "response_format", "max_properties"),
        (_format({"anyOf": [_object(60), _object(60)]}), "response_format", "max_properties"),
        (_format({"patternProperties": {f"^a{i}": {} for i in range(101)}}), "response_format", "max_properties"),
        (_format({"$defs": {f"a{i}": {} for i in range(101)}}), "response_format", "max_properties"),
        (_format({"anyOf": [{}] * 201}), "response_format", "max_properties"),
        (_format({"prefixItems": [{}] * 201}), "response_format", "max_properties"),
        (_format({"examples": [[]] * 601}), "response_format", "max_properties"),
        (_format({"enum": list(range(51))}), "response_format", "max_enum_values"),
        (_format({"anyOf": [{"enum": ["x"] * 30}, {"enum": ["y"] * 30}]}), "response_format", "max_enum_values"),
        (_format(_nested(40)), "response_format", "max_depth"),
        (_format({"description": "a" * 20_000}), "response_format", "max_bytes"),
        (_format({"pattern": "a" * 101}), "response_format", "max_pattern_bytes"),
        (_format({"patternProperties": {"a" * 101: {}}}), "response_format", "max_pattern_bytes"),
        ({"response_format": {"type": "structural_tag", **TAG}}, "response_format", "max_properties"),
        ({"structured_outputs": {"json": _object(101)}}, "structured_outputs", "max_properties"),
        ({"structured_outputs": {"json": json.dumps(_object(101))}}, "structured_outputs", "max_properties"),
        ({"structured_outputs": {"choice": ["a"] * 51}}, "structured_outputs", "max_enum_values"),
        ({"structured_outputs": {"regex": "a" * 101}}, "structured_outputs", "max_pattern_bytes"),
        ({"structured_outputs": {"grammar": "a" * 201}}, "structured_outputs", "max_grammar_bytes"),
        ({"structured_outputs": {"structural_tag": json.dumps(TAG)}}, "structured_outputs", "max_properties"),
        ({"text": {"format": {"type": "json_schema", "schema": _object(101)}}}, "text", "max_properties"),
        (_tools(_object(801)), "tools", "max_properties"),
        (_tools(_object(90), 9), "tools", "max_properties"),
        ({"tools": [{"name": "f", "input_schema": _object(801)}]}, "tools", "max_properties"),
        ({"functions": [{"name": "f", "parameters": _object(801)}]}, "functions", "max_properties"),
    ],
)  # fmt: skip
def test_what_is_too_much_names_the_field_and_the_setting(body: dict[str, Any], field: str, setting: str) -> None:
    with pytest.raises(TooMuch, match=setting) as caught:
        check_members(_members(json.dumps(body)), LIMITS)
    assert caught.value.field == field


def test_a_key_in_another_spelling_is_the_same_key() -> None:
    body = json.dumps(_format(_object(101))).replace("response_format", "respons\\u0065_format")
    with pytest.raises(TooMuch):
        check_members(_members(body), LIMITS)


@pytest.mark.parametrize(
    "body",
    [
        _format(_object(100)),
        _format({"enum": list(range(50))}),
        _format(_nested(16)),
        _tools(_object(10), 80),
        {"messages": [{"role": "user", "content": "a" * 100_000}], "tools": []},
        {"response_format": None, "tools": None},
        {"response_format": "none of ours", "structured_outputs": 7},
        {"prompt": "x", "enum": list(range(1000)), "pattern": "a" * 1000},
    ],
)
def test_what_is_within_the_limits_passes(body: dict[str, Any]) -> None:
    check_members(_members(json.dumps(body)), LIMITS)


def test_an_ordinary_schema_is_within_the_default_limits() -> None:
    check_value("json_schema", _object(500) | {"required": [f"p{i}" for i in range(500)]}, StructuredLimits())
