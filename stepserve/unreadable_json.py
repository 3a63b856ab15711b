"""Why a body cannot be read as a JSON object, and where: for people, once a parser has refused it. Pure."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

BOM = b"\xef\xbb\xbf"  # some editors and PowerShell begin UTF-8 with it
_LOOKED_INTO_BYTES = 1024 * 1024  # a parser that says where takes 10 ms a MB
_GZIP = b"\x1f\x8b"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_MOST_SHOWN = 200  # characters of a field's name
_KINDS = {list: "an array", str: "a string", bool: "true or false", int: "a number", float: "a number"}


class _NotANumber(float):
    """NaN, Infinity or -Infinity, as it stands in the body."""

    name: str

    @classmethod
    def of(cls, name: str) -> "_NotANumber":
        found = cls()
        found.name = name
        return found


@dataclass(frozen=True, slots=True)
class Unreadable:
    """`field`: where in the body, such as `messages.0.content`; None where that cannot be said by a field."""

    reason: str
    field: str | None = None

    def __str__(self) -> str:
        return self.reason if self.field is None else f"{self.field}: {self.reason}"


def why_unreadable(raw: bytes) -> Unreadable:
    """For a body that is no JSON object of UTF-8 with finite numbers and whole characters."""
    if (reason := _why_no_text(raw)) is not None:
        return Unreadable(reason)
    if len(raw) > _LOOKED_INTO_BYTES:
        return Unreadable("The body is not valid JSON.")
    text = raw.decode()
    try:
        content = json.loads(text, parse_constant=_NotANumber.of)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno} (position {error.pos} of {len(text)})"
        return Unreadable(f"The body is not valid JSON: {error.msg.lower().removesuffix(' at')} at {place}.")
    except (RecursionError, ValueError):
        return Unreadable("The body is nested too deeply, or holds a number that is too long.")
    if not isinstance(content, dict):
        return Unreadable(f"The body is {_KINDS.get(type(content), 'null')}; a JSON object is expected.")
    return _misfit(content) or Unreadable("The body is not valid JSON.")


def _why_no_text(raw: bytes) -> str | None:
    reason = None
    if not raw.strip():
        reason = "The body is empty; a JSON object is expected."
    elif raw.startswith(_GZIP):
        reason = "The body is compressed by gzip; the header content-encoding: gzip has to say so."
    elif raw.startswith(_UTF_16):
        reason = "The body is UTF-16; JSON is UTF-8."
    else:
        try:
            raw.decode()
        except UnicodeDecodeError as error:
            reason = f"The body is not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start}."
    return reason


def _misfit(content: Any) -> Unreadable | None:
    """The first value that Python's parser takes and JSON does not have."""
    for place, value in _leaves(content):
        if isinstance(value, _NotANumber):
            return Unreadable(f"{value.name} is not valid JSON; a finite number is expected", place)
        if isinstance(value, str) and (half := _lone_surrogate(value)) is not None:
            return Unreadable(f"\\u{ord(value[half]):04x} at character {half} is half of a surrogate pair", place)
    return None


def is_utf_8(raw: bytes) -> bool:
    if raw.isascii():
        return True
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _leaves(content: Any) -> Iterator[tuple[str, Any]]:
    """Every name and value that holds no others, with its path: `messages.0.content`."""
    waiting: list[tuple[str, Any]] = [("", content)]
    while waiting:
        place, value = waiting.pop()
        if isinstance(value, dict):
            yield from ((place or "body", name) for name in value)
            waiting += [(_below(place, name), each) for name, each in reversed(value.items())]
        elif isinstance(value, list):
            waiting += [(_below(place, str(number)), each) for number, each in reversed(list(enumerate(value)))]
        else:
            yield place, value


def _below(place: str, name: str) -> str:
    shown = name.encode(errors="replace").decode()[:_MOST_SHOWN]
    return f"{place}.{shown}" if place else shown


def _lone_surrogate(text: str) -> int | None:
    """Where the first one is; json.loads has joined the pairs."""
    return next((place for place, each in enumerate(text) if "\ud800" <= each <= "\udfff"), None)
