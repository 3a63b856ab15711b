"""How large a schema, grammar, regular expression or list of tools may be that answers are held to.

Whoever serves one works on it: an object of 20,000 properties takes minutes to compile. These bounds are looked at
before anything else is done with one; what is within them and still expensive is found by compiling it aside, with a
deadline (gateway.engine.structured).
"""

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field

_Count = Annotated[int, Field(ge=1)]

# Keywords of JSON schemas and of structural tags whose values are maps of parts, and lists of parts or values.
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_VALUES = ("enum", "choice", "choices")
_PARTS = ("anyOf", "oneOf", "allOf", "prefixItems", "structures", "triggers", "tags", "elements", "required")
_PATTERNS = ("pattern", "regex")
_JSON = ("json", "structural_tag", "schema", "json_schema")  # which may be texts of JSON
_TEXTS = frozenset((*_PATTERNS, *_JSON, "grammar"))
# Where the fields of a request hold what is bounded here, over all of vLLM's routes.
_FIELDS = ("response_format", "structured_outputs", "text", "output_config", "output_format")
_TOOLS = ("tools", "functions")
# A list of tools is many schemas: an editor's assistant brings a hundred.
_TOOLS_FACTOR = 8
# An optional one of pydantic's takes four; all are walked over in the event loop.
_CONTAINERS_A_PROPERTY = 6
# Around a schema in a request: response_format, json_schema, schema; a structural tag has more.
_WRAPPER_LEVELS = 16


class StructuredLimits(BaseModel):
    """`compile_timeout_s`: processor time for one grammar, once; it is compiled aside and ended there.

    `max_enum_values` is over one schema, lists of choices included; `max_depth` counts objects and arrays, of which a
    property is two. A list of tools may be eight times as large as one schema.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    max_bytes: Annotated[int, Field(ge=1024)] = 128 * 1024
    max_properties: _Count = 1000
    max_enum_values: _Count = 1000
    max_depth: Annotated[int, Field(ge=4, le=64)] = 64
    max_pattern_bytes: _Count = 4096
    max_grammar_bytes: _Count = 32 * 1024
    compile_timeout_s: Annotated[float, Field(ge=1, le=600)] = 5.0


class TooMuch(ValueError):
    """Something to be held to is larger than a limit says."""

    def __init__(self, field: str, found: str, limit: int, setting: str) -> None:
        super().__init__(f"has {found}; at most {limit} (setting engine.structured.{setting})")
        self.field = field


def check_members(members: Mapping[str, msgspec.Raw], limits: StructuredLimits) -> None:
    """Of the body of a request to any of vLLM's routes, each member as it stands there. Raises TooMuch."""
    for name in _FIELDS:
        if (raw := members.get(name)) is not None:
            check_text(name, bytes(raw), limits)
    for name in _TOOLS:
        if (raw := members.get(name)) is not None:
            check_text(name, bytes(raw), limits, factor=_TOOLS_FACTOR)


def check_text(field: str, text: bytes | str, limits: StructuredLimits, factor: int = 1) -> None:
    """Of JSON. Raises TooMuch; what is no JSON is bounded by its length alone."""
    size = len(text)
    if size > limits.max_bytes * factor:
        raise TooMuch(field, f"{size} bytes", limits.max_bytes * factor, "max_bytes")
    try:
        value = msgspec.json.decode(text)
    except RecursionError as error:
        raise TooMuch(field, "more levels than can be read", limits.max_depth, "max_depth") from error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    check_value(field, value, limits, factor)


def check_value(field: str, value: object, limits: StructuredLimits, factor: int = 1) -> None:
    """Of what was decoded already. Raises TooMuch."""
    properties = values = parts = containers = 0
    stack: list[tuple[str | None, Any, int]] = [(None, value, 1)] if isinstance(value, dict | list) else []
    while stack:
        key, part, depth = stack.pop()
        if depth > limits.max_depth + _WRAPPER_LEVELS:
            raise TooMuch(field, f"{depth} levels and more", limits.max_depth, "max_depth")
        below_it = part.values() if isinstance(part, dict) else part
        containers += sum(isinstance(below, dict | list) for below in below_it)
        most = _CONTAINERS_A_PROPERTY * limits.max_properties * factor
        _check_count(field, "objects and arrays", containers, most, "max_properties")
        if isinstance(part, dict):
            properties += len(part) if key in _MAPS else 0
            _check_count(field, "properties", properties, limits.max_properties * factor, "max_properties")
            for name, below in part.items():
                if isinstance(below, dict | list):
                    stack.append((name, below, depth + 1))
                elif name in _TEXTS and isinstance(below, str):
                    _check_string(field, name, below, limits)
            for pattern in part if key == "patternProperties" else ():
                _check_string(field, "pattern", pattern, limits)
        else:
            values += len(part) if key in _VALUES else 0
            parts += len(part) if key in _PARTS else 0
            _check_count(field, "values to choose from", values, limits.max_enum_values * factor, "max_enum_values")
            _check_count(field, "parts", parts, 2 * limits.max_properties * factor, "max_properties")
            stack += [(None, below, depth + 1) for below in part if isinstance(below, dict | list)]


def _check_count(field: str, what: str, count: int, limit: int, setting: str) -> None:
    if count > limit:
        raise TooMuch(field, f"{count} {what}", limit, setting)


def _check_string(field: str, key: str, text: str, limits: StructuredLimits) -> None:
    if key in _PATTERNS and len(text) > limits.max_pattern_bytes:
        raise TooMuch(
            field, f"a regular expression of {len(text)} characters", limits.max_pattern_bytes, "max_pattern_bytes"
        )
    if key == "grammar" and len(text) > limits.max_grammar_bytes:
        raise TooMuch(field, f"a grammar of {len(text)} characters", limits.max_grammar_bytes, "max_grammar_bytes")
    if key in _JSON and text.lstrip()[:1] in ("{", "["):
        check_text(field, text, limits)
