"""A line's fields by name, with errors that name the field. `field_map` renames a file's keys to a format's."""

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from evals.sample import BrokenLine

_LONGEST_ID = 256
_KINDS = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}


def decode(raw: bytes) -> dict[str, Any]:
    """The JSON object of a line. Raises BrokenLine."""
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
        if b"\\u" in raw:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # half of a surrogate pair passes json.loads
    except UnicodeDecodeError as error:
        raise BrokenLine(f"not UTF-8 (byte {error.start + 1} of the line)") from error
    except UnicodeEncodeError as error:
        raise BrokenLine("not Unicode text: half of a surrogate pair") from error
    except json.JSONDecodeError as error:
        raise BrokenLine(f"broken JSON: {error.msg} (column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise BrokenLine(f"broken JSON: {error}") from error
    if not isinstance(value, dict):
        raise BrokenLine(f"not a JSON object but {kind_of(value)}")
    return value


def mapped(line: dict[str, Any], field_map: Mapping[str, str]) -> dict[str, Any]:
    """The line under a format's names: `field_map` is {format's field: key in the file}; `a.b` is b within a.

    The id stays `id` unless it is mapped. Raises BrokenLine for a key that the line lacks.
    """
    fields = {"id": line["id"]} if "id" in line and "id" not in field_map else {}
    for field, key in field_map.items():
        fields[field] = _at(line, key, field)
    return fields


def text(fields: Mapping[str, Any], name: str) -> str:
    """Raises BrokenLine unless the field is text that is not blank."""
    value = fields[name]
    if not isinstance(value, str):
        raise BrokenLine(f"{name!r} must be text, not {kind_of(value)}")
    return not_blank(value, repr(name))


def answer(fields: Mapping[str, Any], name: str) -> str:
    """Text, or a number as text. Raises BrokenLine."""
    return answer_text(fields[name], repr(name))


def answer_text(value: Any, what: str) -> str:
    """Text, or a number as text; `what` names it in errors. Raises BrokenLine."""
    if isinstance(value, float) and not math.isfinite(value):
        raise BrokenLine(f"{what} is a number too large")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise BrokenLine(f"{what} must be text, not {kind_of(value)}")
    return not_blank(value, what)


def texts(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """A list of at least one text. Raises BrokenLine."""
    values = fields[name]
    if not isinstance(values, list) or not values:
        raise BrokenLine(f"{name!r} must be a list of texts, not {'empty' if values == [] else kind_of(values)}")
    return tuple(answer_text(value, f"{name!r}[{number}]") for number, value in enumerate(values))


def sample_id(fields: Mapping[str, Any], line: int, names: tuple[str, ...] = ("id",)) -> str:
    """The first of `names` that is there, else the line's number. Raises BrokenLine."""
    name = next((name for name in names if name in fields), None)
    if name is None:
        return str(line)
    value = fields[name]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    chosen = text(fields, name)
    if len(chosen) > _LONGEST_ID:
        raise BrokenLine(f"{name!r} is longer than {_LONGEST_ID} characters")
    return chosen


def not_blank(value: str, what: str) -> str:
    if not value.strip():
        raise BrokenLine(f"{what} is blank")
    return value


def kind_of(value: Any) -> str:
    return _KINDS.get(type(value), "a number")


def listed(keys: Mapping[str, Any]) -> str:
    return "{" + ", ".join(json.dumps(key, ensure_ascii=False)[:40] for key in list(keys)[:10]) + "}"


def _at(line: dict[str, Any], key: str, field: str) -> Any:
    if key in line:
        return line[key]
    value: Any = line
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            raise BrokenLine(f"{key!r}, which field_map takes as {field!r}, is missing; its keys are {listed(line)}")
        value = value[part]
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
