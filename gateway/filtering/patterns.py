"""The filter that comes along: texts that match a pattern are redacted, or what holds them is blocked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import regex
from pydantic import BaseModel, ConfigDict, Field, field_validator

from gateway.filtering.filter import Blocked, TextFilter

_CONTEXT_CHARS = 64  # of what has gone on already, for patterns that look behind
_LIMIT_S = 0.5  # of one look at one pattern: it holds the event loop

Place = Literal["request", "answer"]


class PatternOptions(BaseModel):
    """`max_chars`: what may be the beginning of a match is held back up to this length; longer matches may slip through
    where an answer is streamed. `name`: told to the client in place of the pattern.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    patterns: Annotated[list[str], Field(min_length=1)]
    action: Literal["redact", "block"] = "redact"
    replacement: str = "[redacted]"
    places: list[Place] = ["request", "answer"]
    max_chars: Annotated[int, Field(ge=16, le=65536)] = 1024
    name: str = "patterns"

    @field_validator("patterns")
    @classmethod
    def _can_be_compiled(cls, patterns: list[str]) -> list[str]:
        for pattern in patterns:
            try:
                compiled = regex.compile(pattern, regex.V1)
            except regex.error as error:
                raise ValueError(f"{pattern!r}: {error}") from error
            if compiled.fullmatch("") is not None:
                raise ValueError(f"{pattern!r} matches a text of no characters")
        return patterns


def patterns(options: Mapping[str, Any]) -> "PatternFilter":
    """The entry point. Raises ValueError."""
    return PatternFilter(PatternOptions.model_validate(options))


class PatternFilter:
    def __init__(self, options: PatternOptions) -> None:
        self._options = options
        self._compiled = [regex.compile(pattern, regex.V1) for pattern in options.patterns]

    def of_request(self) -> TextFilter | None:
        return self._new("request")

    def of_answer(self) -> TextFilter | None:
        return self._new("answer")

    def _new(self, place: Place) -> TextFilter | None:
        return _Matching(self._options, self._compiled) if place in self._options.places else None


@dataclass(slots=True)
class _Matching:
    """`_text` from `_done` on is held back; before that are a few characters that have gone on."""

    options: PatternOptions
    compiled: list[Any]
    _text: str = ""
    _done: int = 0

    def feed(self, text: str) -> str:
        self._text += text
        spans, held_from = self._look(is_end=False)
        if len(self._text) - held_from > self.options.max_chars:
            spans, held_from = self._look(is_end=True)[0], len(self._text) - self.options.max_chars
            spans = [span for span in spans if span[0] < held_from]
            held_from = max([held_from, *(end for _, end in spans)])
        return self._released(spans, held_from)

    def end(self) -> str:
        spans, _ = self._look(is_end=True)
        return self._released(spans, len(self._text))

    def _look(self, *, is_end: bool) -> tuple[list[tuple[int, int]], int]:
        """The matches that nothing can change any more, and where that begins which more text may change."""
        spans: list[tuple[int, int]] = []
        held_from = len(self._text)
        for pattern in self.compiled:
            try:
                for match in pattern.finditer(self._text, self._done, partial=not is_end, timeout=_LIMIT_S):
                    start, end = match.span()
                    if match.partial or (end == len(self._text) and not is_end):
                        held_from = min(held_from, start)
                    elif start < end:
                        spans.append((start, end))
            except TimeoutError:
                raise Blocked(f"{self.options.name}: the text took too long to be looked at") from None
        spans.sort()
        for start, end in reversed(spans):
            if start < held_from < end:
                held_from = start
        return [span for span in spans if span[0] < held_from], held_from

    def _released(self, spans: list[tuple[int, int]], upto: int) -> str:
        if spans and self.options.action == "block":
            raise Blocked(f"{self.options.name}: the text holds what is not let through")
        pieces = []
        place = self._done
        for start, end in spans:
            if start >= place:
                pieces += [self._text[place:start], self.options.replacement]
            place = max(place, end)
        pieces.append(self._text[place:upto])
        kept = max(0, upto - _CONTEXT_CHARS)
        self._text, self._done = self._text[kept:], upto - kept
        return "".join(pieces)
