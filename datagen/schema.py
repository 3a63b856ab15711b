"""JSON schemas of strangers: checked before the engine is asked to hold answers to them."""

import json
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from datagen.errors import Refused

_LONGEST = 100_000


def validator_of(field: str, schema: dict[str, Any]) -> Draft202012Validator:
    """Raises Refused naming the place that is wrong. Nothing is ever fetched: `$ref` stays inside the schema."""
    try:
        text = json.dumps(schema)
    except RecursionError as error:
        raise Refused(field, "is nested too deeply") from error
    if len(text) > _LONGEST:
        raise Refused(field, f"is longer than {_LONGEST} characters")
    if not all(reference.startswith("#") for reference in _references(schema)):
        raise Refused(field, "may refer to its own parts alone ($ref must begin with '#')")
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        place = ".".join(str(part) for part in error.absolute_path)
        raise Refused(field, f"{place or 'the schema'}: {error.message[:300]}") from error
    return Draft202012Validator(schema)


def _references(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        own = [str(schema[key]) for key in ("$ref", "$dynamicRef") if key in schema]
        return own + [reference for value in schema.values() for reference in _references(value)]
    if isinstance(schema, list):
        return [reference for value in schema for reference in _references(value)]
    return []
