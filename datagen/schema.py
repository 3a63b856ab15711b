"""JSON schemas of strangers: checked before the engine is asked to hold answers to them."""

import json
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from datagen.errors import Refused
from stepserve.structured_bounds import StructuredLimits, TooMuch, check_value

_LONGEST = 100_000
# Keywords whose schemas hold for the very same value.
_SAME_VALUE_LISTS = ("allOf", "anyOf", "oneOf")
_SAME_VALUE = ("not", "if", "then", "else")


def validator_of(field: str, schema: dict[str, Any]) -> Draft202012Validator:
    """Raises Refused naming the place that is wrong. Nothing is ever fetched: `$ref` stays inside the schema."""
    try:
        text = json.dumps(schema)
    except RecursionError as error:
        raise Refused(field, "is nested too deeply") from error
    if len(text) > _LONGEST:
        raise Refused(field, f"is longer than {_LONGEST} characters")
    try:
        check_value(field, schema, StructuredLimits())
    except TooMuch as error:
        raise Refused(field, str(error)) from error
    if not all(reference.startswith("#") for reference in _references(schema)):
        raise Refused(field, "may refer to its own parts alone ($ref must begin with '#')")
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        place = ".".join(str(part) for part in error.absolute_path)
        raise Refused(field, f"{place or 'the schema'}: {error.message[:300]}") from error
    for reference in _references(schema):
        if _place(schema, reference) is None and not _is_name(reference):
            raise Refused(field, f"$ref: there is no {reference[:100]!r} in it")
    if (loop := _loop(schema)) is not None:
        raise Refused(field, f"{loop[:100]!r} leads back to itself with no object or array in between")
    return Draft202012Validator(schema)


def _references(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        own = [str(schema[key]) for key in ("$ref", "$dynamicRef") if key in schema]
        return own + [reference for value in schema.values() for reference in _references(value)]
    if isinstance(schema, list):
        return [reference for value in schema for reference in _references(value)]
    return []


def _is_name(reference: str) -> bool:
    """Whether it is an `$anchor`'s and not a path."""
    return len(reference) > 1 and not reference.startswith("#/")


def _place(schema: Any, reference: str) -> Any:
    """What a path such as `#/$defs/a` leads to; None where it leads nowhere, or is none."""
    if _is_name(reference):
        return None
    place = schema
    for part in reference[1:].split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(place, list) and key.isdecimal() and int(key) < len(place):
            place = place[int(key)]
        elif isinstance(place, dict) and key in place:
            place = place[key]
        else:
            return None
    return place


def _loop(schema: dict[str, Any]) -> str | None:
    """A `$ref` by which a schema comes back to itself without going into the value: nothing would ever be decided."""
    done: set[int] = set()
    for start in _parts(schema):
        if id(start) in done:
            continue
        inside = {id(start)}
        stack: list[tuple[dict[str, Any], Iterator[tuple[str, dict[str, Any]]]]] = [(start, _same_value(schema, start))]
        while stack:
            part, below = stack[-1]
            for reference, other in below:
                if id(other) in inside:
                    return reference
                if id(other) not in done:
                    inside.add(id(other))
                    stack.append((other, _same_value(schema, other)))
                    break
            else:
                stack.pop()
                inside.discard(id(part))
                done.add(id(part))
    return None


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        yield schema
    for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from _parts(part)


def _same_value(root: dict[str, Any], part: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schemas that hold for the value that `part` is asked about, and by which word."""
    for key in ("$ref", "$dynamicRef"):
        if isinstance(target := _place(root, str(part[key])) if key in part else None, dict):
            yield str(part[key]), target
    for key in _SAME_VALUE_LISTS:
        yield from ((key, each) for each in part.get(key, ()) if isinstance(each, dict))
    yield from ((key, part[key]) for key in _SAME_VALUE if isinstance(part.get(key), dict))
