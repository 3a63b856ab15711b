"""Reads a stream of server-sent events as it passes: is it one, how much was used, has it ended as it should."""

from typing import Any

import msgspec

from gateway.access.meter import Meter

MAX_LINE_BYTES = 4 * 1024 * 1024

_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")
_DONE = b"[DONE]"
_LAST_TYPES = frozenset({"response.completed", "response.failed", "response.incomplete", "message_stop", "error"})


class Garbage(Exception):
    """What came is not what was asked for; the text says what it is."""


class _Event(msgspec.Struct):
    type: Any = None
    usage: Any = None
    error: Any = None
    choices: Any = None
    message: Any = None
    response: Any = None


_decoder = msgspec.json.Decoder(_Event)


class EventScan:
    """`feed` gives back what may go on to the client: whole lines, never a part of one."""

    def __init__(self, meter: Meter) -> None:
        self.complete = False
        self._meter = meter
        self._rest = b""
        self._pieces = 0
        self._usage_is_known = False

    def feed(self, chunk: bytes) -> bytes:
        """Raises Garbage. What follows the end is dropped."""
        if self.complete:
            return b""
        lines = self._rest + chunk
        whole, newline, self._rest = lines.rpartition(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise Garbage(f"a line of more than {MAX_LINE_BYTES} bytes in its stream")
        if not newline:
            return b""
        kept = 0
        for line in whole.split(b"\n"):
            kept += len(line) + 1
            if self._ends_with(line.strip(b"\r")):
                self.complete = True
                return whole[: kept - 1] + b"\n\n"
        return whole + b"\n"

    def _ends_with(self, line: bytes) -> bool:
        """Whether this line is the end of the answer. Raises Garbage."""
        if not line:
            return False
        if not line.startswith(_FIELDS):
            raise Garbage(f"no event in its stream: {line[:60]!r}")
        if not line.startswith(b"data:"):
            return False
        data = line[5:].strip()
        if data == _DONE:
            return True
        try:
            event = _decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Garbage(f"an event that is not valid JSON: {data[:60]!r}") from error
        self._count(event)
        return isinstance(event.type, str) and event.type in _LAST_TYPES

    def _count(self, event: _Event) -> None:
        for holder in (event.response, event.message):
            if isinstance(holder, dict) and isinstance(holder.get("usage"), dict):
                self._note(holder["usage"])
        if isinstance(event.usage, dict):
            self._note(event.usage)
        elif not self._usage_is_known and event.choices:
            self._pieces += 1
            self._meter.completion_tokens = self._pieces  # one token a piece, until somebody says better

    def _note(self, usage: dict[str, Any]) -> None:
        self._usage_is_known = True
        note_usage(self._meter, usage)


def note_usage(meter: Meter, usage: object) -> None:
    """Takes over what a server says that a request used, in OpenAI's or Anthropic's words."""
    if not isinstance(usage, dict):
        return
    for names, field in (
        (("prompt_tokens", "input_tokens"), "prompt_tokens"),
        (("completion_tokens", "output_tokens"), "completion_tokens"),
    ):
        for name in names:
            count = usage.get(name)
            if isinstance(count, int) and count >= 0:
                setattr(meter, field, count)
