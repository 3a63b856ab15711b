"""Connections that say nothing, or never finish saying it, cost nobody but themselves."""

import asyncio
import os
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.http.half_closed import HalfClosed
from stepserve.access_settings import LimitSettings

MAX_HEAD_BYTES = 64 * 1024
GRACE_S = 1.0
TAKE_BODY = "stepserve.take_body"  # an extension in the scope: GuardedConnection.take_body
_REASON = b'{"detail":"The request line and its headers are longer than %d bytes."}' % MAX_HEAD_BYTES
_HEAD_TOO_LONG = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(_REASON), _REASON)
)


class SilentConnections:
    """Those whose request head is not complete, the oldest first. Of too many the oldest are closed, but none that
    is younger than GRACE_S: a whole crowd may be let in before the first of them is listened to.
    """

    def __init__(self, limits: LimitSettings) -> None:
        self.head_timeout_s = limits.head_timeout_s
        self._most = limits.max_silent_connections
        self._since_s: dict[GuardedConnection, float] = {}
        self._sweep: asyncio.TimerHandle | None = None

    def add(self, connection: "GuardedConnection") -> None:
        self._since_s.pop(connection, None)
        self._since_s[connection] = connection.loop.time()
        if len(self._since_s) > self._most and self._sweep is None:
            self._sweep = connection.loop.call_later(GRACE_S, self._close_oldest, connection.loop)

    def remove(self, connection: "GuardedConnection") -> None:
        self._since_s.pop(connection, None)

    def _close_oldest(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweep = None
        young_s = loop.time() - GRACE_S
        surplus = len(self._since_s) - self._most
        for connection, since_s in list(self._since_s.items())[: max(0, surplus)]:
            if since_s > young_s:
                self._sweep = loop.call_later(GRACE_S, self._close_oldest, loop)
                return
            connection.give_up()


class GuardedConnection(HttpToolsProtocol):
    """uvicorn's protocol with a bound on the time and the bytes of a request's head, which it has not."""

    silent: SilentConnections  # set by `guarded`

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._refused = False
        self._half_closed: HalfClosed | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # narrowed by uvicorn's
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_complete()
        if self._half_closed is not None:
            self._half_closed.stop()
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]  # uvicorn's closes whatever is asked
        """Keeps the connection for the answers to what was asked, unless it is certain that nobody reads them."""
        if self._half_closed is not None:  # reading was taken up again, and there is nothing more
            return True
        cycle = self.cycle
        if self.scheme != "http" or cycle is None or cycle.response_complete or self._head_timer is not None:
            return False
        last = self.pipeline[0][0] if self.pipeline else cycle
        if last.more_body:  # of a request that will never be whole
            return False
        last.keep_alive = False  # the connection ends with that answer
        asks = not cycle.response_started and cycle.scope["http_version"] != "1.0"
        self._half_closed = HalfClosed(self.transport, self.transport.abort, asks=asks)
        return True

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if self._head_timer is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_timer is not None and self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self.scheme == "http":
            self.scope["extensions"] = {TAKE_BODY: {"take": self.take_body}}
        if self._head_timer is None:  # a further request on a connection that was kept
            self._await_head()

    def on_headers_complete(self) -> None:
        """A head that came all at once was not counted alone: body may have come with it."""
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._refuse_head()
            return
        self._head_complete()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._refused:
            super().on_message_complete()

    def take_body(self) -> tuple[bytes, int]:
        """What has come of the body and nobody has read, and the socket that the rest comes from: a descriptor of the
        caller's own, not blocking. Raises OSError when the client is gone.

        The parser sees nothing of that rest, so the connection is closed after the answer.
        """
        self.flow.pause_reading()
        descriptor = os.dup(self.transport.get_extra_info("socket").fileno())
        self.cycle.keep_alive = False
        begun, self.cycle.body = bytes(self.cycle.body), bytearray()
        return begun, descriptor

    def _refuse_head(self) -> None:
        self._refused = True
        self._head_complete()
        self.transport.write(_HEAD_TOO_LONG)
        self.transport.close()

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(self.silent.head_timeout_s, self.give_up)
        self.silent.add(self)

    def _head_complete(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
            self.silent.remove(self)

    def give_up(self) -> None:
        self._head_complete()
        self.transport.close()


def guarded(limits: LimitSettings) -> type[GuardedConnection]:
    """The protocol class for one server; its connections share one count."""

    class Connection(GuardedConnection):
        silent = SilentConnections(limits)

    return Connection
