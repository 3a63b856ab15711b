"""One request in another vocabulary, and its answer made of what one of vLLM's routes answers."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from gateway.dialects.events import DONE, EventData
from gateway.http.asgi import App, Message, Receive, Scope, Send, replay, send_json
from gateway.http.error_rendering import Failure, Renderer, renderer_of, with_headers
from gateway.http.tracked_send import NO_ANSWER, TrackedSend
from gateway.request.context import RequestContext

Json = dict[str, Any]
_BODY_HEADERS = frozenset({b"content-length", b"content-type", b"content-encoding", b"transfer-encoding", b"expect"})
_CARRIED = frozenset(
    {
        b"x-model-id", b"x-model-digest", b"x-model-version", b"x-model-versions", b"x-stepserve-gateway",
        b"retry-after", b"x-request-id", b"x-cache",
    }
)  # fmt: skip
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


Otherwise = Callable[[Failure], tuple[str, Json] | None]
"""The path and the body to ask instead of what was refused; None: the refusal stands."""


class Translator(Protocol):
    """Makes the bytes of another stream out of vLLM's chunks."""

    content_type: bytes

    def piece(self, chunk: Json) -> bytes:
        """What a chunk becomes; empty: nothing is sent for it."""
        ...

    def end(self) -> bytes: ...


@dataclass(slots=True)
class Call:
    """`inner` serves vLLM's routes, with everything that lies before them: holds, limits, names.

    Every answer carries the identity headers of the checkpoint that gave it.
    """

    scope: Scope
    receive: Receive
    send: TrackedSend
    inner: App
    timing: Timing = field(default_factory=Timing)

    async def whole(
        self, path: str, body: Json, translate: Callable[[Json], Json], otherwise: Otherwise | None = None
    ) -> None:
        """Asks `path` and answers once, with what `translate` makes of its JSON. `otherwise` may ask once more."""
        collected = _Collected()
        await self._ask(path, body, collected.send)
        if otherwise is not None and (other := collected.other(otherwise)) is not None:
            await self.whole(*other, translate)
            return
        if collected.status != 200:
            await self._refuse(collected)
            return
        answer = msgspec.json.decode(collected.body)
        if answer is not None:  # vLLM answers nothing to a client that went away
            await send_json(self.send, 200, translate(answer), collected.carried)

    async def stream(self, path: str, body: Json, translator: Translator, otherwise: Otherwise | None = None) -> None:
        """Asks `path` for a stream and hands its pieces on as they come. A refusal is one JSON answer.

        `otherwise` may ask once more.
        """
        streamed = _Streamed(self.send, self.send.renderer, translator, self.timing)
        await self._ask(path, body | {"stream": True, "stream_options": {"include_usage": True}}, streamed.take)
        refusal = streamed.refusal
        if refusal is None:
            return
        if otherwise is not None and (other := refusal.other(otherwise)) is not None:
            await self.stream(*other, translator)
        else:
            await self._refuse(refusal)

    async def refuse(self, failure: Failure) -> None:
        await self.send.refuse(failure)

    async def answer(self, content: object, status: int = 200) -> None:
        await send_json(self.send, status, content)

    async def empty(self) -> None:
        """Answers that it is done, and nothing more."""
        await self.send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await self.send({"type": "http.response.body", "body": b""})

    async def _ask(self, path: str, body: Json, send: Send) -> None:
        context = RequestContext.of(self.scope)
        if context.priority is not None:
            body = body | {"priority": context.priority}
        encoded = msgspec.json.encode(body)
        headers = [pair for pair in self.scope["headers"] if pair[0] not in _BODY_HEADERS]
        headers += [_JSON_HEADER, (b"content-length", str(len(encoded)).encode())]
        asked = {"method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers}
        key, inner = context.translated(path, encoded)
        response = TrackedSend(send, renderer_of(inner.match))
        await self.inner({**self.scope, **asked, key: inner}, replay(encoded, self.receive), response)
        if response.given_up is not None and not response.is_stream and not response.ended:
            raise response.given_up

    async def _refuse(self, refusal: "_Collected") -> None:
        await self.send.refuse(with_headers(Failure.said(refusal.status, refusal.body), refusal.carried))


class _Collected:
    """A whole answer; none where the client went away."""

    def __init__(self, start: Message | None = None) -> None:
        self.status = NO_ANSWER
        self.carried: list[tuple[bytes, bytes]] = []
        self.body = b""
        if start is not None:
            self._begin(start)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begin(message)
        else:
            self.body += message.get("body", b"")

    def other(self, otherwise: Otherwise) -> tuple[str, Json] | None:
        """What is to be asked instead; None unless this is a refusal that somebody heard."""
        refused = self.status >= 400 and self.status != NO_ANSWER
        return otherwise(Failure.said(self.status, self.body)) if refused else None

    def _begin(self, start: Message) -> None:
        self.status = start["status"]
        self.carried = [pair for pair in start.get("headers", ()) if pair[0].lower() in _CARRIED]


class _Streamed:
    """`refusal` is set when the answer was no stream."""

    def __init__(self, send: Send, renderer: Renderer, translator: Translator, timing: Timing) -> None:
        self.refusal: _Collected | None = None
        self._send = send
        self._renderer = renderer
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
            out += self._renderer.event(Failure(502, "The answer was cut off.", "cut_off"))
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
            return self._renderer.event(Failure.said(500, data))
        if chunk.get("choices"):
            self._timing.note_token()
        return self._translator.piece(chunk)
