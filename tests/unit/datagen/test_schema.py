"""What a job's answers may be held to."""

import sys
from typing import Any

import pytest

from datagen.errors import Refused
from datagen.schema import validator_of

A_LOOP = {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}}
TREE = {
    "$defs": {
        "node": {"type": "object", "properties": {"below": {"type": "array", "items": {"$ref": "#/$defs/node"}}}}
    },
    "$ref": "#/$defs/node",
}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"$ref": "#"}, "itself"),
        (A_LOOP | {"$ref": "#/$defs/a"}, "itself"),
        ({"allOf": [{"not": {"$ref": "#"}}]}, "itself"),
        ({"$ref": "#/$defs/nowhere"}, "there is no '#/\\$defs/nowhere'"),
        ({"$ref": "https://example.org/schema"}, "its own parts"),
        ({"properties": {f"p{i}": {} for i in range(20_000)}}, "100000 characters"),
        ({"properties": {f"p{i}": {} for i in range(2_000)}}, "max_properties"),
        ({"enum": list(range(2_000))}, "max_enum_values"),
        ({"pattern": "a" * 5_000}, "max_pattern_bytes"),
        ({"type": "nothing of the kind"}, "type"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_with_its_place(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(Refused, match=said):
        validator_of("json_schema", schema)


def test_one_nested_deeper_than_the_stack_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(sys.getrecursionlimit() * 2):
        schema = {"items": schema}
    with pytest.raises(Refused):
        validator_of("json_schema", schema)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        TREE,
        {"$defs": {"a": {"$anchor": "x", "type": "string"}}, "properties": {"b": {"$ref": "#x"}}},
        {"properties": {"a": {"$ref": "#"}}},
        {"$defs": {"a": {"type": "string"}}, "allOf": [{"$ref": "#/$defs/a"}], "anyOf": [{"$ref": "#/$defs/a"}]},
    ],
)
def test_one_that_refers_to_its_parts_is_not(schema: dict[str, Any]) -> None:
    assert validator_of("json_schema", schema).schema == schema


def test_a_tree_is_held_to_its_definition() -> None:
    validator = validator_of("json_schema", TREE)
    assert validator.is_valid({"below": [{"below": []}]})
    assert not validator.is_valid({"below": [{"below": 7}]})
