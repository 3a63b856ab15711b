"""An answer that is changed on its way out: a whole one at once, a stream event by event."""

from typing import Protocol

from gateway.http.asgi import App, Message, Receive, Scope, Send
from gateway.http.tracked_send import TrackedSend

_OK = 200
_NOTHING = b"null"  # what vLLM answers to a client that went away
_END = b"\n\n"


class Rewriter(Protocol):
    def whole(self, body: bytes) -> bytes: ...

    def event(self, block: bytes) -> bytes:
        """What is sent for a server-sent event: whole events, or nothing. `block` has no empty line at its end."""
        ...


async def rewritten(app: App, scope: Scope, receive: Receive, send: TrackedSend, rewriter: Rewriter) -> None:
    """Calls the app. Refusals pass as they are. Raises the GatewayError for which a whole answer was given up."""
    inner = TrackedSend(_Passing(send, rewriter).take, send.renderer)
    await app(scope, receive, inner)
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

    async def take(self, message: Message) -> None:
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
        *blocks, self._body = (self._body + message.get("body", b"")).split(_END)
        out = b"".join(self._rewriter.event(block) for block in blocks if block)
        more = message.get("more_body", False)
        if not more:
            out, self._body = out + self._body, b""
        if out or not more:
            await self._send({"type": "http.response.body", "body": out, "more_body": more})
