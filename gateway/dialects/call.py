"""One request in another vocabulary, and its answer made of what one of vLLM's routes answers."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from gateway.dialects.events import DONE, EventData
from gateway.http.asgi import App, Message, Receive, Scope, Send, replay, send_json

Json = dict[str, Any]
Envelope = Callable[[int, str, str | None], Json]
"""The body of an error, from its HTTP status, its message and its code."""

PRIORITY_KEY = "stepserve.priority"
"""In a request's scope: the priority that vLLM's scheduler gives it; absent for interactive ones."""

TRANSLATED_KEY = "stepserve.translated"
"""In a request's scope: its body was made here, of one in another vocabulary."""

_BODY_HEADERS = frozenset({b"content-length", b"content-type", b"content-encoding", b"transfer-encoding", b"expect"})
_CARRIED = frozenset({b"x-model-id", b"x-model-digest", b"retry-after", b"x-request-id"})
_JSON_HEADER = (b"content-type", b"application/json")


class Timing:
    """When a request came in and when its first token did, by the monotonic clock."""

    def __init__(self) -> None:
        self.started_ns = time.perf_counter_ns()
        self.first_token_ns: int | None = None

    def note_token(self) -> None:
        if self.first_token_ns is None:
            self.first_token_ns = time.perf_counter_ns()

    @property
    def total_ns(self) -> int:
        return time.perf_counter_ns() - self.started_ns

    @property
    def generating_ns(self) -> int:
        """Since the first token; the whole time where no token was seen by itself."""
        return time.perf_counter_ns() - (self.first_token_ns or self.started_ns)


class Translator(Protocol):
    """Makes the bytes of another stream out of vLLM's chunks."""

    content_type: bytes

    def piece(self, chunk: Json) -> bytes:
        """What a chunk becomes; empty: nothing is sent for it."""
        ...

    def end(self) -> bytes: ...

    def failed(self, error: Json) -> bytes:
        """How the stream ends when its request failed after the headers had been sent."""
        ...


@dataclass(slots=True)
class Call:
    """`inner` serves vLLM's routes, with everything that lies before them: holds, limits, names.

    Every answer carries the identity headers of the checkpoint that gave it.
    """

    scope: Scope
    receive: Receive
    send: Send
    inner: App
    envelope: Envelope
    timing: Timing = field(default_factory=Timing)

    async def whole(self, path: str, body: Json, translate: Callable[[Json], Json]) -> None:
        """Asks `path` and answers once, with what `translate` makes of its JSON."""
        collected = _Collected()
        await self._ask(path, body, collected.send)
        if collected.status != 200:
            await self._refuse(collected)
            return
        answer = msgspec.json.decode(collected.body)
        if answer is not None:  # vLLM answers nothing to a client that went away
            await send_json(self.send, 200, translate(answer), collected.carried)

    async def stream(self, path: str, body: Json, translator: Translator) -> None:
        """Asks `path` for a stream and hands its pieces on as they come. A refusal is one JSON answer."""
        streamed = _Streamed(self.send, translator, self.timing)
        await self._ask(path, body | {"stream": True, "stream_options": {"include_usage": True}}, streamed.take)
        if streamed.refusal is not None:
            await self._refuse(streamed.refusal)

    async def refuse(
        self, status: int, message: str, code: str | None = None, retry_after_s: float | None = None
    ) -> None:
        headers = [] if retry_after_s is None else [(b"retry-after", str(max(1, round(retry_after_s))).encode())]
        await send_json(self.send, status, self.envelope(status, message, code), headers)

    async def answer(self, content: object, status: int = 200) -> None:
        await send_json(self.send, status, content)

    async def _ask(self, path: str, body: Json, send: Send) -> None:
        if PRIORITY_KEY in self.scope:
            body = body | {"priority": self.scope[PRIORITY_KEY]}
        encoded = msgspec.json.encode(body)
        headers = [pair for pair in self.scope["headers"] if pair[0] not in _BODY_HEADERS]
        headers += [_JSON_HEADER, (b"content-length", str(len(encoded)).encode())]
        asked = {"method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers}
        await self.inner({**self.scope, **asked, TRANSLATED_KEY: True}, replay(encoded, self.receive), send)

    async def _refuse(self, refusal: "_Collected") -> None:
        message, code = error_of(refusal.body)
        content = self.envelope(refusal.status, message, code)
        await send_json(self.send, refusal.status, content, refusal.carried)


class _Collected:
    """A whole answer. A client that went away gets none: status 499."""

    def __init__(self, start: Message | None = None) -> None:
        self.status = 499
        self.carried: list[tuple[bytes, bytes]] = []
        self.body = b""
        if start is not None:
            self._begin(start)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begin(message)
        else:
            self.body += message.get("body", b"")

    def _begin(self, start: Message) -> None:
        self.status = start["status"]
        self.carried = [pair for pair in start.get("headers", ()) if pair[0].lower() in _CARRIED]


class _Streamed:
    """`refusal` is set when the answer was no stream."""

    def __init__(self, send: Send, translator: Translator, timing: Timing) -> None:
        self.refusal: _Collected | None = None
        self._send = send
        self._translator = translator
        self._timing = timing
        self._events = EventData()
        self._ended = False

    async def take(self, message: Message) -> None:
        if self.refusal is not None:
            await self.refusal.send(message)
        elif message["type"] == "http.response.start":
            await self._start(message)
        elif message["type"] == "http.response.body":
            await self._body(message)

    async def _start(self, message: Message) -> None:
        collected = _Collected(message)
        if message["status"] != 200:
            self.refusal = collected
            return
        headers = [(b"content-type", self._translator.content_type), (b"cache-control", b"no-store")]
        headers += [(b"x-accel-buffering", b"no"), *collected.carried]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _body(self, message: Message) -> None:
        out = b"".join(self._translated(data) for data in self._events.feed(message.get("body", b"")))
        more = message.get("more_body", False)
        if not more and not self._ended:
            out += self._translator.failed({"message": "The answer was cut off.", "code": "cut_off"})
        if out or not more:
            await self._send({"type": "http.response.body", "body": out, "more_body": more})

    def _translated(self, data: bytes) -> bytes:
        if self._ended:
            return b""
        if data == DONE:
            self._ended = True
            return self._translator.end()
        chunk: Json = msgspec.json.decode(data)
        if "error" in chunk:
            self._ended = True
            error = chunk["error"]
            return self._translator.failed(error if isinstance(error, dict) else {"message": str(error)})
        if chunk.get("choices"):
            self._timing.note_token()
        return self._translator.piece(chunk)


def error_of(body: bytes) -> tuple[str, str | None]:
    """Message and code of an error in whichever envelope it came."""
    try:
        content = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        content = None
    if not isinstance(content, dict):
        return body[:500].decode(errors="replace") or "no answer", None
    error = content.get("error", content)
    if not isinstance(error, dict):
        return str(error), None
    message = error.get("message") or error.get("detail") or "the request failed"
    code = error.get("code")
    return str(message), code if isinstance(code, str) else None
