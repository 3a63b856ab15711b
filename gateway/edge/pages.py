"""Pages for browsers: what runs here (`/`), and the OpenAPI document made readable (`/docs`). Nothing is fetched for
them from anywhere else, and nothing in them runs.
"""

from collections.abc import Iterator
from html import escape
from typing import Any

from gateway.dialects.call import Call

Json = dict[str, Any]

_HEADERS = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),
    (b"cache-control", b"no-store"),
    (b"vary", b"accept"),
]
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code,summary b{font-family:ui-monospace,monospace}table{border-collapse:collapse}"
    "td,th{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0}details{margin:.3rem 0}"
    "summary{cursor:pointer}h2{margin-top:2rem}@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}"
    "a{color:#8bf}}"
)
_METHODS = ("get", "post", "put", "delete")
_SCHEMAS = "#/components/schemas/"
_LONGEST_TEXT = 300


def wants_html(call: Call) -> bool:
    """A browser says that it takes HTML; no other client of these routes does."""
    accepted = (value for name, value in call.scope["headers"] if name == b"accept")
    return any(b"text/html" in value for value in accepted)


async def send_page(call: Call, title: str, body: str) -> None:
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><h1>{escape(title)}</h1>{body}</body></html>"
    ).encode()
    headers = [*_HEADERS, (b"content-length", str(len(text)).encode())]
    await call.send({"type": "http.response.start", "status": 200, "headers": headers})
    await call.send({"type": "http.response.body", "body": b"" if call.scope["method"] == "HEAD" else text})


def links(targets: dict[str, str]) -> str:
    items = (f'<li><a href="{escape(path)}">{escape(path)}</a> {escape(what)}</li>' for path, what in targets.items())
    return f"<ul>{''.join(items)}</ul>"


def readable(document: Json) -> str:
    """Every route of an OpenAPI document below the first part of its path, with the fields that it takes."""
    schemas: Json = document.get("components", {}).get("schemas", {})
    groups: dict[str, list[str]] = {}
    for path in sorted(document["paths"]):
        group = "/" + path.split("/")[1]
        for method in _METHODS:
            if (operation := document["paths"][path].get(method)) is not None:
                groups.setdefault(group, []).append(_operation(method, path, operation, schemas))
    return "".join(f"<h2>{escape(group)}</h2>{''.join(each)}" for group, each in groups.items())


def _operation(method: str, path: str, operation: Json, schemas: Json) -> str:
    rows = [*_parameters(operation), *_body_fields(operation, schemas)]
    cells = "".join(
        f"<tr><td><code>{escape(name)}</code></td><td>{kind}</td><td>{text}</td></tr>" for name, kind, text in rows
    )
    said = escape(_short(operation.get("description") or ""))
    summary = f"<summary><b>{method.upper()} {escape(path)}</b> {escape(operation.get('summary') or '')}</summary>"
    table = f"<table>{cells}</table>" if cells else "<p>It takes nothing.</p>"
    return f"<details>{summary}{f'<p>{said}</p>' if said else ''}{table}</details>"


def _parameters(operation: Json) -> Iterator[tuple[str, str, str]]:
    for each in operation.get("parameters", ()):
        place = f"in the {each['in']}" + (", required" if each.get("required") else "")
        yield each["name"], escape(_kind(each.get("schema", {}))), escape(place)


def _body_fields(operation: Json, schemas: Json) -> Iterator[tuple[str, str, str]]:
    content: Json = operation.get("requestBody", {}).get("content", {})
    kinds: list[Json] = [*content.values()]
    schema = _resolved(kinds[0].get("schema", {}) if kinds else {}, schemas)
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        notes = ["required"] if name in required else []
        if field.get("default") is not None:
            notes.append(f"default {field['default']}")
        if text := field.get("description"):
            notes.append(_short(text))
        yield name, escape(_kind(field)), escape("; ".join(notes))


def _resolved(schema: Json, schemas: Json) -> Json:
    reference = schema.get("$ref", "")
    found: Json = schemas.get(reference.removeprefix(_SCHEMAS), {}) if reference else schema
    return found


def _kind(schema: Json) -> str:
    """A word or two: `integer`, `array of string`, `string or null`, the name of another schema."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2].rpartition(".")[2]
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    if "const" in schema:
        return str(schema["const"])
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(map(_kind, schema[several])))
    if schema.get("type") == "array" and "items" in schema:
        return f"array of {_kind(schema['items'])}"
    return str(schema.get("type", "anything"))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + " …"
