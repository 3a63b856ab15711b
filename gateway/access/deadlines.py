"""What ends an answer before it is whole: its time is up, its client does not take it, its key is not valid any more.

One task looks after all of them.
"""

import asyncio
import time
from collections.abc import Callable

import msgspec

from gateway.access.meter import Meter
from gateway.access.refusal import refuse
from gateway.errors import AnswerTimeout, GatewayError
from gateway.http.asgi import App, Message, Receive, Scope, Send
from stepserve.access_settings import LimitSettings

MayGoOn = Callable[[], None]
"""Raises GatewayError when who asked may not ask any more."""


class _Exchange:
    """One request and what its client has been sent of the answer. `meter`: None where no engine is asked."""

    def __init__(self, send: Send, meter: Meter | None, begun_s: float, may_go_on: MayGoOn) -> None:
        self.task = asyncio.current_task()
        self.meter = meter
        self.begun_s = begun_s
        self.barred = False
        self._may_go_on = may_go_on
        self.started = False
        self.is_stream = False
        self.blocked_since_s: float | None = None
        self.ended_for: GatewayError | None = None
        self._send = send

    def end(self, error: GatewayError) -> None:
        """Stops the request for `error`, unless something has stopped it already."""
        if self.ended_for is None:
            self.ended_for = error
            if self.meter is not None:
                self.meter.cancel()
            if self.task is not None:
                self.task.cancel()

    def look_at_key(self) -> None:
        """Ends the request at the second look at a key that is valid no more: who revokes his own is told so first."""
        try:
            self._may_go_on()
        except GatewayError as error:
            if self.barred:
                self.end(error)
            self.barred = True

    async def send(self, message: Message) -> None:
        if self.ended_for is not None:
            return
        if message["type"] == "http.response.start":
            self.started = True
            kind = next((value for key, value in message.get("headers", ()) if key == b"content-type"), b"")
            self.is_stream = kind.startswith((b"text/event-stream", b"application/x-ndjson"))
        self.blocked_since_s = time.monotonic()
        try:
            await self._send(message)
        finally:
            self.blocked_since_s = None

    async def say_why(self, path: str) -> None:
        """Tells the client what ended its request, where it can still be told. A stream is never ended as if whole."""
        error = self.ended_for
        assert error is not None
        if not self.started:
            await refuse(path, self._send, error)
        elif self.is_stream and self.blocked_since_s is None:
            body = _last_words(error) if self.meter is not None else _last_event(error)
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
        # Returning with more_body left open makes the web server cut the connection.


def _last_words(error: GatewayError) -> bytes:
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    envelope = {"error": {"message": str(error), "type": kind, "param": None, "code": error.code}}
    return b"data: " + msgspec.json.encode(envelope) + b"\n\n"


def _last_event(error: GatewayError) -> bytes:
    """In the words of control's event streams."""
    return b"event: error\ndata: " + msgspec.json.encode({"detail": str(error), "code": error.code}) + b"\n\n"


class Deadlines:
    """`run` must be going on: it ends what is overdue, within `tick_s`."""

    def __init__(self, limits: LimitSettings, tick_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._tick_s = tick_s
        self._clock = clock
        self._exchanges: set[_Exchange] = set()
        self._others: set[_Exchange] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_flight(self) -> int:
        return len(self._exchanges)

    async def until_idle(self) -> None:
        await self._idle.wait()

    async def serve(
        self, app: App, scope: Scope, receive: Receive, send: Send, meter: Meter, may_go_on: MayGoOn
    ) -> None:
        """Calls the app; what it does in an engine is noted in `meter`."""
        exchange = _Exchange(send, meter, self._clock(), may_go_on)
        self._exchanges.add(exchange)
        self._idle.clear()
        await self._answer(exchange, app, scope, receive)

    async def attend(self, app: App, scope: Scope, receive: Receive, send: Send, may_go_on: MayGoOn) -> None:
        """Calls an app that asks no engine: it may take as long as it likes, while who asked may ask."""
        exchange = _Exchange(send, None, self._clock(), may_go_on)
        self._others.add(exchange)
        await self._answer(exchange, app, scope, receive)

    async def _answer(self, exchange: _Exchange, app: App, scope: Scope, receive: Receive) -> None:
        try:
            await app(scope, receive, exchange.send)
        except asyncio.CancelledError:
            if exchange.ended_for is None or exchange.task is None:
                raise
            exchange.task.uncancel()
            self._leave(exchange)
            await exchange.say_why(scope["path"])
        finally:
            self._leave(exchange)

    def _leave(self, exchange: _Exchange) -> None:
        self._exchanges.discard(exchange)
        self._others.discard(exchange)
        if not self._exchanges:
            self._idle.set()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._tick_s)
            now = self._clock()
            for exchange in list(self._exchanges):
                if (overdue := self._overdue(exchange, now)) is not None:
                    exchange.end(overdue)
            for exchange in [*self._exchanges, *self._others]:
                exchange.look_at_key()

    def end_all(self, error: GatewayError) -> None:
        """Ends every request; its client is told `error`."""
        for exchange in list(self._exchanges):
            exchange.end(error)

    def _overdue(self, exchange: _Exchange, now: float) -> GatewayError | None:
        blocked_s = now - exchange.blocked_since_s if exchange.blocked_since_s is not None else 0.0
        if blocked_s > self._limits.stalled_client_timeout_s:
            return AnswerTimeout(f"The client took none of its answer for {blocked_s:.0f} s.")
        streams = exchange.started and exchange.is_stream
        limit_s = self._limits.stream_timeout_s if streams else self._limits.request_timeout_s
        if now - exchange.begun_s <= limit_s:
            return None
        name = "stream_timeout_s" if streams else "request_timeout_s"
        return AnswerTimeout(f"The answer took longer than {limit_s:g} s (setting limits.{name}).")
