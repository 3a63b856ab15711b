"""The tables of docs/settings.md: what people wrote about a setting, with its type and default out of the program."""

import re
from collections.abc import Iterator
from typing import Any

from reference.schema import Schema, cell, resolved, words
from stepserve.settings import Settings

_PREFIX = "INFERENCE_"
_ROW = re.compile(r"^\| `(INFERENCE_\w+)` \|(?:[^|]*\|)?([^|]*)\|((?:[^|]|\\\|)*)\|$")
_MIB, _GIB = 1024**2, 1024**3


class Undocumented(Exception):
    """docs/settings.md has no row of a setting, or a row of none."""


def filled(page: str) -> str:
    """The page with the columns of types and defaults written anew; a row that has no type yet gets one.

    A default that is null or empty keeps its words.

    Raises Undocumented.
    """
    known = dict(_settings())
    seen: set[str] = set()

    def row(line: str) -> str:
        found = _ROW.match(line)
        if found is None:
            return line
        name, written, text = (part.strip() for part in found.groups())
        if name not in known:
            raise Undocumented(f"There is no setting {name}.")
        seen.add(name)
        kind, default = known[name]
        return f"| `{name}` | {cell(kind)} | {cell(default) or written} | {text} |"

    page = "".join(row(line) + "\n" for line in page.splitlines())
    if missing := known.keys() - seen:
        raise Undocumented(f"docs/settings.md has no row of {', '.join(sorted(missing))}.")
    return page


def _settings() -> Iterator[tuple[str, tuple[str, str]]]:
    """Variable, then type and default in words; no words for a default that is null or empty."""
    schema = Settings.model_json_schema()
    yield from _of(schema, schema.get("$defs", {}), _PREFIX)


def _of(schema: Schema, schemas: Schema, prefix: str) -> Iterator[tuple[str, tuple[str, str]]]:
    for name, field in schema["properties"].items():
        variable = f"{prefix}{name.upper()}"
        inner = resolved(field, schemas)
        if "properties" in inner:
            yield from _of(inner, schemas, f"{variable}__")
        else:
            yield variable, (words(field, schemas), _default(field.get("default"), is_bytes="bytes" in name))


def _default(value: Any, *, is_bytes: bool) -> str:
    if value is None or value in ({}, []):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if is_bytes:
        for size, unit in ((_GIB, "GiB"), (_MIB, "MiB")):
            if value and value % size == 0:
                return f"{value // size} {unit}"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"`{value}`".replace("'", '"')
