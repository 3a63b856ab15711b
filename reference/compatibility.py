"""What a client of one OpenAPI document would trip over in another one: `breaking(released, now)`.

A client sends what it sent before and reads what it read before. So a request may ask for less and accept more; an
answer may say more and never less.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from reference.schema import METHODS, Schema, resolved

Document = dict[str, Any]
Side = Literal["request", "answer"]

_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems")
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems")
_ANY = "anything"


def breaking(released: Document, now: Document) -> list[str]:
    """A sentence for each change that breaks a client, in the order of the released document."""
    old_schemas, new_schemas = (each.get("components", {}).get("schemas", {}) for each in (released, now))
    found: list[str] = []
    for path, item in released["paths"].items():
        for method in (each for each in METHODS if each in item):
            place = f"{method.upper()} {path}"
            new = now["paths"].get(path, {}).get(method)
            if new is None:
                found.append(f"{place}: the route was removed")
            else:
                found += _Comparison(place, old_schemas, new_schemas).operation(item[method], new)
    return list(dict.fromkeys(found))


def written(document: Document) -> str:
    """The document as a file whose changes can be read: a line for each route and each schema, in order."""
    head = {name: value for name, value in document.items() if name not in {"paths", "components"}}
    parts = [f"{_line(name)}: {_line(value)}" for name, value in head.items()]
    parts.append('"paths": ' + _by_line(document["paths"]))
    parts.append('"components": {"schemas": ' + _by_line(document["components"]["schemas"]) + "}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _by_line(values: Schema) -> str:
    return "{\n" + ",\n".join(f"{_line(name)}: {_line(values[name])}" for name in sorted(values)) + "\n}"


def _line(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


@dataclass(slots=True)
class _Comparison:
    """Of one route. `seen` are the pairs of named schemas that were entered: schemas may contain themselves."""

    place: str
    old_schemas: Schema
    new_schemas: Schema
    seen: set[tuple[Side, str, str]] = field(default_factory=set)

    def operation(self, old: Schema, new: Schema) -> Iterator[str]:
        yield from self._parameters(old.get("parameters", []), new.get("parameters", []))
        old_body, new_body = old.get("requestBody"), new.get("requestBody")
        if new_body is not None and new_body.get("required") and not (old_body or {}).get("required"):
            yield f"{self.place}: a body became required"
        yield from self._contents(old_body or {}, new_body or {}, "request", "the body")
        for status, answer in old.get("responses", {}).items():
            if status.startswith("2"):
                if status not in new.get("responses", {}):
                    yield f"{self.place}: the answer {status} was removed"
                    continue
                yield from self._contents(answer, new["responses"][status], "answer", "the answer")

    def _parameters(self, old: list[Schema], new: list[Schema]) -> Iterator[str]:
        before, after = ({(one["in"], one["name"]): one for one in each} for each in (old, new))
        for (kind, name), one in before.items():
            if (kind, name) not in after:
                yield f"{self.place}: the {kind} parameter {name} was removed"
            else:
                yield from self.compare(one.get("schema", {}), after[kind, name].get("schema", {}), "request", name)
        for (kind, name), one in after.items():
            if one.get("required") and not before.get((kind, name), {}).get("required"):
                yield f"{self.place}: the {kind} parameter {name} became required"

    def _contents(self, old: Schema, new: Schema, side: Side, where: str) -> Iterator[str]:
        after = new.get("content", {})
        for kind, content in old.get("content", {}).items():
            if kind not in after:
                yield f"{self.place}: {where} as {kind} was removed"
            else:
                yield from self.compare(content.get("schema", {}), after[kind].get("schema", {}), side, "")

    def compare(self, old: Schema, new: Schema, side: Side, where: str) -> Iterator[str]:
        """`where` is the field, such as `rule.margin`; empty for the whole body."""
        names = (str(old.get("$ref", "")), str(new.get("$ref", "")))
        if all(names):
            if (side, *names) in self.seen:
                return
            self.seen.add((side, *names))
        before, after = _choices(old, self.old_schemas), _choices(new, self.new_schemas)
        yield from self._types(before, after, side, where)
        for kind, name, schema in before:
            partner = _partner(kind, name, before, after)
            if partner is not None:
                yield from self._one(schema, partner, side, where)

    def _types(self, before: "_Choices", after: "_Choices", side: Side, where: str) -> Iterator[str]:
        old, new = ({kind for kind, *_ in each} for each in (before, after))
        if side == "request":
            lost = [kind for kind in sorted(old) if not _covers(new, kind)]
            if lost:
                yield f"{self.place}: {_named(where)} no longer takes {', '.join(lost)}"
        else:
            gained = [kind for kind in sorted(new) if not _covers(old, kind)]
            if gained:
                yield f"{self.place}: {_named(where)} of the answer may now be {', '.join(gained)}"

    def _one(self, old: Schema, new: Schema, side: Side, where: str) -> Iterator[str]:
        yield from self._values(old, new, side, where)
        if side == "request":
            yield from self._bounds(old, new, where)
        if "items" in old or "items" in new:
            yield from self.compare(old.get("items", {}), new.get("items", {}), side, f"{where}[]")
        before, after = old.get("properties", {}), new.get("properties", {})
        inner = f"{where}." if where else ""
        for name, schema in before.items():
            if name in after:
                yield from self.compare(schema, after[name], side, inner + name)
            elif side == "answer" or not new.get("additionalProperties", False):
                yield f"{self.place}: the field {inner}{name}{_of(side)} was removed"
        required_before, required_after = set(old.get("required", [])), set(new.get("required", []))
        if side == "request":
            for name in sorted(required_after - required_before):
                yield f"{self.place}: the field {inner}{name} became required"
        else:
            for name in sorted((required_before - required_after) & set(after)):
                yield f"{self.place}: the field {inner}{name} of the answer may now be absent"

    def _values(self, old: Schema, new: Schema, side: Side, where: str) -> Iterator[str]:
        before, after = _values_of(old), _values_of(new)
        if side == "request" and after is not None:
            lost = ["other values"] if before is None else [value for value in before if value not in after]
            if lost:
                yield f"{self.place}: {_named(where)} no longer takes {', '.join(map(str, lost))}"

    def _bounds(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        for name in (*_UPPER, *_LOWER):
            if name not in new:
                continue
            upper = name in _UPPER
            if name not in old or (new[name] < old[name] if upper else new[name] > old[name]):
                if name.startswith("min") and name not in old and new[name] == 0:
                    continue
                yield f"{self.place}: {_named(where)} has a narrower {name}, {new[name]}"


_Choices = list[tuple[str, str, Schema]]
"""The types that a schema allows: kind, the name of the schema where it has one, and the schema."""


def _choices(schema: Schema, schemas: Schema) -> _Choices:
    name = str(schema.get("$ref", ""))
    schema = resolved(schema, schemas)
    inner = schema.get("anyOf") or schema.get("oneOf")
    if inner:
        return [choice for one in inner for choice in _choices(one, schemas)]
    if len(schema.get("allOf", [])) == 1:
        return _choices(schema["allOf"][0], schemas)
    kind = schema.get("type") or (_ANY if _values_of(schema) is None else "string")
    kinds = kind if isinstance(kind, list) else [kind]
    return [(each, name, schema) for each in kinds]


def _partner(kind: str, name: str, before: _Choices, after: _Choices) -> Schema | None:
    """The schema to compare with: of the same name, else the only one of the kind on both sides."""
    named = [schema for _, other, schema in after if name and other == name]
    if named:
        return named[0]
    alike = [schema for other, _, schema in after if other == kind]
    alone = sum(other == kind for other, *_ in before) == 1
    return alike[0] if alone and len(alike) == 1 else None


def _covers(kinds: set[str], kind: str) -> bool:
    return kind in kinds or _ANY in kinds or (kind == "integer" and "number" in kinds)


def _values_of(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values: list[Any] | None = schema.get("enum")
    return values


def _named(where: str) -> str:
    return f"the field {where}" if where else "the body"


def _of(side: Side) -> str:
    return " of the answer" if side == "answer" else ""
