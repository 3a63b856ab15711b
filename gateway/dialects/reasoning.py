"""`reasoning_content`, as most clients know it, beside vLLM's `reasoning` in chat completions."""

from typing import Any

import msgspec

from gateway.http.asgi import App, Message, Receive, Scope, Send

_PATH = "/v1/chat/completions"
_OURS, _THEIRS = "reasoning_content", "reasoning"
_EVENT = b"data: {"


def with_reasoning_content(app: App) -> App:
    """Wraps vLLM's app; only chat completions are looked into."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == _PATH:
            send = _Renaming(send).send
        await app(scope, receive, send)

    return wrapped


class _Renaming:
    """A whole answer comes in one message from vLLM, and so does each event of a stream."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message  # its content-length is known when the body is
            return
        body = message.get("body", b"")
        start, self._start = self._start, None
        is_event = body.startswith(_EVENT)
        if b'"reasoning"' in body:
            body = _renamed_event(body) if is_event else _renamed(body)
        if start is not None:
            await self._send(_resized(start, body, message))
        await self._send({**message, "body": body})


def _resized(start: Message, body: bytes, message: Message) -> Message:
    if message.get("more_body", False):
        return start
    headers = [pair for pair in start.get("headers", ()) if pair[0].lower() != b"content-length"]
    return {**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]}


def _renamed_event(body: bytes) -> bytes:
    events = body.split(b"\n\n")
    return b"\n\n".join(
        b"data: " + _renamed(each.removeprefix(b"data: ")) if each.startswith(_EVENT) else each for each in events
    )


def _renamed(encoded: bytes) -> bytes:
    try:
        content: Any = msgspec.json.decode(encoded)
    except msgspec.DecodeError:
        return encoded
    for choice in content.get("choices", ()) if isinstance(content, dict) else ():
        said = choice.get("message") or choice.get("delta")
        if said and _THEIRS in said:
            said[_OURS] = said[_THEIRS]
    return msgspec.json.encode(content)
