"""The ASGI types, and the few things done with raw messages on the request path."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any, TypeVar

import msgspec

from gateway.errors import RequestTooLarge

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
T = TypeVar("T")
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class ClientDisconnected(Exception):
    """The client went away before its request was complete; nobody is there to answer."""


async def read_body(receive: Receive, limit_bytes: int) -> bytes:
    """The whole request body. Raises RequestTooLarge as soon as it is too long, ClientDisconnected when cut off."""
    chunks: list[bytes] = []
    length = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        chunk: bytes = message.get("body", b"")
        length += len(chunk)
        if length > limit_bytes:
            raise RequestTooLarge(limit_bytes)
        if not message.get("more_body", False):
            return b"".join(chunks) + chunk if chunks else chunk
        chunks.append(chunk)


async def until_disconnected(receive: Receive) -> None:
    """Waits until the client goes away, then raises ClientDisconnected. For use when the body has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass
    raise ClientDisconnected


async def unless_disconnected(work: Coroutine[Any, Any, T], receive: Receive) -> T:
    """Does the work, but gives it up when the client goes away first: ClientDisconnected then."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(until_disconnected(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnected
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives `body` first and then goes on with the real one (the client's disconnect)."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


async def send_json(send: Send, status: int, content: object, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    body = msgspec.json.encode(content)
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
