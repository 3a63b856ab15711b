"""JSON schemas in words."""

import json
from typing import Any

METHODS = ("get", "post", "put", "patch", "delete")
Schema = dict[str, Any]
NOTHING = "\N{EN DASH}"
_INT64 = 2**63 - 1  # a bound of the format, and of nothing that is meant
_BOUNDS = (
    ("minimum", "≥ {}"),
    ("exclusiveMinimum", "> {}"),
    ("maximum", "≤ {}"),
    ("exclusiveMaximum", "< {}"),
    ("maxLength", "≤ {} characters"),
    ("maxItems", "≤ {} items"),
)


def resolved(schema: Schema, schemas: Schema) -> Schema:
    """The schema that a reference names; any other as it is."""
    while "$ref" in schema:
        schema = schemas[str(schema["$ref"]).rpartition("/")[2]]
    return schema


def words(schema: Schema, schemas: Schema) -> str:
    """A type with its limits, such as `integer, ≥ 1`. Null is left out: an optional field shows its default."""
    schema = resolved(schema, schemas)
    choices = [one for one in schema.get("anyOf") or schema.get("oneOf") or [] if one.get("type") != "null"]
    if choices:
        return " or ".join(dict.fromkeys(words(one, schemas) for one in choices))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{one or json.dumps(one)}`" for one in schema.get("enum", [schema.get("const")]))
    kind = "path" if schema.get("format") == "path" else str(schema.get("type", "anything"))
    if kind == "array":
        inner = words(schema.get("items", {}), schemas)
        kind = "list" if inner == "anything" else f"list of {inner}"
    elif kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        kind = f"map to {words(schema['additionalProperties'], schemas)}"
    if "minimum" in schema and "maximum" in schema and schema["maximum"] < _INT64:
        return f"{kind}, {_number(schema['minimum'])} to {_number(schema['maximum'])}"
    bounds = [text.format(_number(schema[name])) for name, text in _BOUNDS if abs(schema.get(name, _INT64)) < _INT64]
    least = max(schema.get("minLength", 0), schema.get("minItems", 0))
    return ", ".join([kind, *(["not empty"] if least == 1 else [f"≥ {least} long"] if least else []), *bounds])


def default_of(schema: Schema, *, required: bool) -> str:
    if required:
        return "required"
    default = schema.get("default")
    return NOTHING if default is None else f"`{json.dumps(default, ensure_ascii=False)}`"


def cell(text: str) -> str:
    """Within a table's row."""
    return " ".join(text.split()).replace("|", "\\|")


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"
