"""docs/reference/api.md, out of what a running server says at /openapi.json."""

from itertools import groupby
from typing import Any

from reference.schema import METHODS, Schema, cell, default_of, resolved, words

_HEAD = """# HTTP routes

Written by the program itself: `make reference` makes this page from `GET /openapi.json`, which every server has, and a
test compares the two. [Clients](../clients.md) says how the inference routes are used, [security](../security.md)
which key opens what. Unknown fields in a body are refused with a 422 that names them;
only Ollama's routes (`/api/…`) ignore them, as Ollama does.
"""
_VLLM = (
    "vLLM's own; [its documentation](https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html)"
    " has the fields."
)

Document = dict[str, Any]


def page(document: Document) -> str:
    """Routes under their first name, in the order of the document."""
    routes = sorted(
        ((_section(path), path, method, item[method]) for path, item in document["paths"].items() for method in METHODS
         if method in item),
        key=lambda route: route[0],
    )  # fmt: skip
    schemas = document["components"]["schemas"]
    parts = [_HEAD]
    for section, mine in groupby(routes, key=lambda route: route[0]):
        parts.append(f"## {section}\n")
        parts += [_route(path, method, told, schemas) for _, path, method, told in mine]
    return "\n".join(parts)


def _section(path: str) -> str:
    return "/" + path.split("/")[1]


def _route(path: str, method: str, told: Schema, schemas: Schema) -> str:
    """A summary beside an operationId is FastAPI's, made of a function's name: it says nothing."""
    parts = [f"### {method.upper()} {path}\n"]
    said = told.get("description") or ("" if "operationId" in told else told.get("summary", ""))
    if said and not said.startswith("/"):
        parts.append(f"{said}\n")
    rows = [
        (f"`{one['name']}` ({one['in']})", one["schema"], bool(one.get("required")), one.get("description", ""))
        for one in told.get("parameters", [])
        if one["in"] != "path"
    ]
    content = told.get("requestBody", {}).get("content", {})
    for kind, body in content.items():
        reference = str(body.get("schema", {}).get("$ref", ""))
        if "/vllm." in reference:
            parts.append(f"{_VLLM}\n")
            continue
        schema = resolved(body.get("schema", {}), schemas)
        if schema.get("description"):
            parts.append(f"{schema['description']}\n")
        if kind != "application/json":
            parts.append(f"Body: `{kind}`.\n")
        required = schema.get("required", [])
        rows += [
            (f"`{name}`", field, name in required, field.get("description", ""))
            for name, field in schema.get("properties", {}).items()
        ]
    if rows:
        parts.append(_table(rows, schemas))
    return "\n".join(parts)


def _table(rows: list[tuple[str, Schema, bool, str]], schemas: Schema) -> str:
    noted = any(note for *_, note in rows)
    lines = ["| field | type | default |" + (" |" if noted else ""), "|---|---|---|" + ("---|" if noted else "")]
    for name, field, required, note in rows:
        cells = [name, words(field, schemas), default_of(field, required=required), *([note] if noted else [])]
        lines.append("| " + " | ".join(cell(one) for one in cells) + " |")
    return "\n".join(lines) + "\n"
