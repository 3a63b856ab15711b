"""JSON whose mistakes can be named with the line they are on."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Place = tuple[str | int, ...]

_DECODER = json.JSONDecoder()
_BLANK = re.compile(r"[ \t\n\r]*")


class JsonRefused(ValueError):
    """No JSON, or an object that has one key twice. `line` counts from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class Located:
    """A document and the line of every key and array element in it."""

    value: Any
    lines: Mapping[Place, int]

    def line_of(self, place: Place) -> int:
        """The line of `place`, or of what is nearest above it."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)


def parse(text: str) -> Located:
    """Raises JsonRefused."""
    reader = _Reader(text)
    value = reader.value(())
    if reader.at != len(text):
        raise reader.refusal("something follows the end of the document")
    return Located(value, reader.lines)


class _Reader:
    """Walks objects and arrays itself, to see each key's position; json does everything below them."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lines: dict[Place, int] = {}
        self.at = 0
        self._skip_blank()

    def value(self, place: Place) -> Any:
        match self._peek():
            case "{":
                found: Any = self._object(place)
            case "[":
                found = self._array(place)
            case _:
                found = self._plain()
        self._skip_blank()
        return found

    def refusal(self, message: str) -> JsonRefused:
        return JsonRefused(message, self._line())

    def _object(self, place: Place) -> dict[str, Any]:
        found: dict[str, Any] = {}
        self._take("{")
        while self._peek() != "}":
            if found:
                self._take(",")
            line = self._line()
            if self._peek() != '"':
                raise self.refusal("a key in double quotes belongs here")
            key = self._plain()
            if key in found:
                first = self.lines[*place, key]
                raise JsonRefused(f"{'.'.join(map(str, (*place, key)))} is there twice (also on line {first})", line)
            self.lines[*place, key] = line
            self._skip_blank()
            self._take(":")
            found[key] = self.value((*place, key))
        self._take("}")
        return found

    def _array(self, place: Place) -> list[Any]:
        found: list[Any] = []
        self._take("[")
        while self._peek() != "]":
            if found:
                self._take(",")
            self.lines[*place, len(found)] = self._line()
            found.append(self.value((*place, len(found))))
        self._take("]")
        return found

    def _plain(self) -> Any:
        try:
            found, self.at = _DECODER.raw_decode(self.text, self.at)
        except json.JSONDecodeError as error:
            raise JsonRefused(error.msg, error.lineno) from error
        return found

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _take(self, character: str) -> None:
        if self._peek() != character:
            raise self.refusal(f"{character!r} belongs here")
        self.at += 1
        self._skip_blank()

    def _skip_blank(self) -> None:
        match = _BLANK.match(self.text, self.at)
        assert match is not None
        self.at = match.end()

    def _line(self) -> int:
        return self.text.count("\n", 0, self.at) + 1
