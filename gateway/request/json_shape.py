"""JSON looked at as bytes: how many values it has and how deep it is, without making anything of it."""

import asyncio
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

IN_THREAD_BYTES = 256 * 1024  # looked through in a few ms
_LONG_KEY = 32  # characters; shorter ones are the names of fields, which are no text
_BRACKETS_ALIKE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(code for code in range(256) if code not in b"[]{}")
_PIECE_BYTES = 1 << 20
_DIGITS_AND_SPACE = b"0123456789 \t\r\n"
_DIGITS_ALIKE = bytes.maketrans(b"123456789", b"0" * 9)
_TOO_LONG = b"0" * 19
_LONG_INTEGER = re.compile(rb"(?<![-+0-9.eE])-?+[0-9]{19,}+(?![0-9.eE])")
_MOST_DIGITS = 22  # Python takes long for numbers of thousands
_LIST = re.compile(rb"\[,*\]")
_LIST_OR_LISTS = re.compile(rb"\[(?:,*|\[,*\](?:,\[,*\])*)\]")


# One at a time: each holds the interpreter for tens of milliseconds, and the event loop has its turn between two.
_looking = ThreadPoolExecutor(1, thread_name_prefix="bodies")


async def beside(look: Callable[..., T], *about: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(_looking, look, *about)


def strings(value: Any) -> Iterator[str]:
    """Every text in a value."""
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, list):
            pending.extend(one)
        elif isinstance(one, dict):
            for name, inner in one.items():
                if len(name) > _LONG_KEY:
                    yield name
                pending.append(inner)


def values_at_most(raw: bytes) -> int:
    """As many values as there can be in some JSON: commas and brackets in its strings are counted too."""
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def may_hold_more(raw: bytes, values: int) -> bool:
    """Each takes a byte at least."""
    return len(raw) > values and values_at_most(raw) > values


def _unescaped(raw: bytes) -> bytes:
    """Of the same length, without quotes that end no string."""
    return raw.replace(b"\\\\", b"__").replace(b'\\"', b"__") if b"\\" in raw else raw


def quotes(raw: bytes) -> int:
    return _unescaped(raw).count(b'"')


def structure_of(raw: bytes) -> bytes:
    """Some JSON without what is in its strings."""
    return b"".join(_unescaped(raw).split(b'"')[::2])


def is_deeper(structure: bytes, levels: int) -> bool:
    """Takes innermost pairs away until none is left."""
    pieces = range(0, len(structure), _PIECE_BYTES)
    brackets = b"".join(structure[at : at + _PIECE_BYTES].translate(_BRACKETS_ALIKE, _NO_BRACKETS) for at in pieces)
    for _ in range(levels):
        fewer = brackets.replace(b"[]", b"")
        if len(fewer) == len(brackets):  # none is left, or it is no JSON, which the parser will say
            return False
        brackets = fewer
    return b"[]" in brackets


def has_long_digits(raw: bytes) -> bool:
    """Whether there are so many digits in a row, in strings too, that a number of them may not fit into 64 bits."""
    return _TOO_LONG in raw.translate(_DIGITS_ALIKE)


def fits_64_bits(raw: bytes) -> bool:
    """Whether every whole number in some JSON, outside of strings, fits into 64 bits."""
    found = _LONG_INTEGER.findall(structure_of(raw))
    return all(len(number) < _MOST_DIGITS and -(2**63) <= int(number) < 2**64 for number in found)


def are_tokens(raw: bytes, *, nested: bool) -> bool:
    """Whether some JSON is a list of whole numbers from 0 that fit into 64 bits, or, `nested`, a list of such lists."""
    shape = raw.translate(None, _DIGITS_AND_SPACE)
    fits = (_LIST_OR_LISTS if nested else _LIST).fullmatch(shape) is not None
    return fits and not has_long_digits(raw)
