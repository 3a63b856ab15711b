"""An answer that is changed on its way out: a whole one at once, a stream event by event."""

import asyncio
from typing import Protocol

from gateway.http.asgi import App, Message, Receive, Scope, Send
from gateway.http.tracked_send import TrackedSend

_OK = 200
_NOTHING = b"null"  # what vLLM answers to a client that went away
_END = b"\n\n"


class Rewriter(Protocol):
    """`over`: what was sent for the last event ends the stream; the app is told that its client has gone."""

    @property
    def over(self) -> bool: ...

    def whole(self, body: bytes) -> bytes: ...

    def event(self, block: bytes) -> bytes:
        """What is sent for a server-sent event: whole events, or nothing. `block` has no empty line at its end."""
        ...


async def rewritten(app: App, scope: Scope, receive: Receive, send: TrackedSend, rewriter: Rewriter) -> None:
    """Calls the app. Refusals pass as they are. Raises the GatewayError for which a whole answer was given up."""
    passing = _Passing(send, rewriter)
    inner = TrackedSend(passing.take, send.renderer)
    await app(scope, _until(passing.over, receive), inner)
    if inner.given_up is not None and not inner.is_stream and not inner.ended:
        raise inner.given_up


class _Passing:
    def __init__(self, send: Send, rewriter: Rewriter) -> None:
        self._send = send
        self._rewriter = rewriter
        self._start: Message | None = None
        self._body = b""
        self._is_stream = False
        self._as_it_is = False
        self.over = asyncio.Event()

    async def take(self, message: Message) -> None:
        if self.over.is_set():
            return
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif self._as_it_is:
            await self._send(message)
        elif self._is_stream:
            await self._events(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._whole()

    async def _begin(self, message: Message) -> None:
        kind = next((value for name, value in message.get("headers", ()) if name.lower() == b"content-type"), b"")
        self._is_stream = kind.startswith(b"text/event-stream")
        self._as_it_is = message["status"] != _OK or not (self._is_stream or kind.startswith(b"application/json"))
        if self._as_it_is or self._is_stream:
            await self._send(message)
        else:
            self._start = message

    async def _whole(self) -> None:
        assert self._start is not None, "an answer begins with its start"
        body = self._body if self._body == _NOTHING else self._rewriter.whole(self._body)
        headers = [pair for pair in self._start.get("headers", ()) if pair[0].lower() != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def _events(self, message: Message) -> None:
        came = self._body + message.get("body", b"")
        *blocks, self._body = came.replace(b"\r\n", b"\n").split(_END)
        out = b"".join(self._event(block) for block in blocks if block)
        more = message.get("more_body", False) and not self.over.is_set()
        if out or not more:
            await self._send({"type": "http.response.body", "body": out, "more_body": more})

    def _event(self, block: bytes) -> bytes:
        if self.over.is_set():
            return b""
        out = self._rewriter.event(block)
        if self._rewriter.over:
            self.over.set()
        return out


def _until(over: asyncio.Event, receive: Receive) -> Receive:
    """A `receive` by which the client leaves once it is `over`."""

    async def received() -> Message:
        real = asyncio.ensure_future(receive())
        ended = asyncio.ensure_future(over.wait())
        try:
            await asyncio.wait((real, ended), return_when=asyncio.FIRST_COMPLETED)
            return real.result() if real.done() else {"type": "http.disconnect"}
        finally:
            real.cancel()
            ended.cancel()

    return received
