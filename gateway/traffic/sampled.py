"""Hears what is asked and answered, where its key consents, and has a share of it kept. No answer waits for that."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from gateway.filtering.answers import SHAPES, Shape
from gateway.http.asgi import App, Message, Receive, Scope, Send
from gateway.http.tracked_send import TrackedSend, tracked
from gateway.request.context import RequestContext
from gateway.traffic.writer import OUTCOMES, Exchange, TrafficWriter
from stepserve.access import ANONYMOUS
from stepserve.request_id import key_id
from stepserve.traffic import TrafficSettings

_OK = 200
_WIRE_BYTES = 64  # of a stream, for a byte of text: an event a token


@dataclass(frozen=True, slots=True)
class Sampled:
    """`inner` answers. `chance` gives numbers from 0 to 1."""

    inner: App
    writer: TrafficWriter
    settings: TrafficSettings
    chance: Callable[[], float] = random.random

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = RequestContext.of(scope)
        shape = SHAPES.get(context.match.label)
        if shape is None or not self._may_be_kept(context) or self.chance() >= self.settings.share:
            await self.inner(scope, receive, send)
            return
        response = tracked(send, scope)
        listener = _Listener(self.writer, self.settings, context, shape, response)
        try:
            await self.inner(scope, receive, response)
        finally:
            listener.close()

    def _may_be_kept(self, context: RequestContext) -> bool:
        """Of jobs nothing is: they have files of their own."""
        if not context.consents or context.priority is not None:
            return False
        return self.settings.without_keys or key_id.get() != ANONYMOUS


class _Listener:
    """Of one answer, beside whoever else hears it."""

    def __init__(
        self,
        writer: TrafficWriter,
        settings: TrafficSettings,
        context: RequestContext,
        shape: Shape,
        response: TrackedSend,
    ) -> None:
        self._writer = writer
        self._context = context
        self._shape = shape
        self._most_bytes = _WIRE_BYTES * settings.max_exchange_bytes
        self._before = response.hears
        self._headers: dict[bytes, bytes] = {}
        self._pieces: list[bytes] = []
        self._held_bytes = 0
        self._over = False
        response.hears = self._hear

    def close(self) -> None:
        """An answer that did not come to its end is forgotten."""
        self._give_up(None)

    def _hear(self, message: Message) -> None:
        if self._before is not None:
            self._before(message)
        if self._over:
            return
        if message["type"] == "http.response.start":
            self._begin(message)
            return
        piece = message.get("body", b"")
        if self._hold(len(piece)):
            self._pieces.append(piece)
            if not message.get("more_body", False):
                self._end()

    def _begin(self, message: Message) -> None:
        body = self._context.body
        if message["status"] != _OK or body is None:
            self._give_up(None)
            return
        self._headers = {name.lower(): value for name, value in message.get("headers", ())}
        self._hold(len(body.raw))

    def _hold(self, size_bytes: int) -> bool:
        """False: there is no room for so much, and the exchange is given up."""
        if self._held_bytes + size_bytes > self._most_bytes:
            self._give_up("too_large")
            return False
        if not self._writer.hold(size_bytes):
            self._give_up("refused")
            return False
        self._held_bytes += size_bytes
        return True

    def _give_up(self, outcome: str | None) -> None:
        if self._over:
            return
        self._over = True
        self._pieces.clear()
        self._writer.release(self._held_bytes)
        if outcome is not None:
            OUTCOMES.labels(outcome).inc()

    def _end(self) -> None:
        self._over = True
        context = self._context
        assert context.body is not None, "looked at when the answer began"
        self._writer.take(
            Exchange(
                owner=key_id.get() or ANONYMOUS,
                request_id=context.request_id,
                path=context.match.label,
                shape=self._shape,
                model=self._headers.get(b"x-model-id", b"").decode("latin-1"),
                digest=self._headers.get(b"x-model-digest", b"").decode("latin-1"),
                body=context.body.raw,
                content=b"".join(self._pieces),
                is_stream=self._headers.get(b"content-type", b"").startswith(b"text/event-stream"),
                held_bytes=self._held_bytes,
            )
        )
