"""JSON bodies before control's routes read them, JSON whatever their content-type says, as on the gateway's own routes.

None has so many values that reading them, and telling what is wrong with each, would hold control up. None holds what a
parser takes and nothing can write again, such as half characters.
"""

import asyncio
import json
import re

import msgspec
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stepserve.unreadable_json import BOM, is_utf_8, why_unreadable

MOST_VALUES = 200_000  # a reference of a few hundred prompts has as many log-probabilities

_IN_THREAD_BYTES = 256 * 1024
_LONG_NUMBER = re.compile(rb"(?<![0-9])[0-9]{4000}")  # Python reads none of more than 4,300 digits
_OURS = (b"content-type", b"content-length", b"transfer-encoding")
_NOTHING = (b"", b"null")  # for routes whose body may be left out
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


class JsonBound:
    """Middleware. Looks at no file: those come in forms, or past control's routes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] == "GET" or _is_file(scope):
            await self._app(scope, receive, send)
            return
        pieces: list[bytes] = []
        values = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                await self._app(scope, _replay(message, receive), send)
                return
            pieces.append(message.get("body", b""))
            values += pieces[-1].count(b",") + pieces[-1].count(b"[") + pieces[-1].count(b"{")
            if values > MOST_VALUES:
                text = f"The body holds too much: at most {MOST_VALUES} values (commas and brackets are counted)."
                await _refusal(scope, text, None, 413)(scope, receive, send)
                return
            if not message.get("more_body", False):
                break
        body = b"".join(pieces).removeprefix(BOM)
        if not _is_lines(scope):
            in_thread = len(body) > _IN_THREAD_BYTES
            if not (await asyncio.to_thread(_is_readable, body) if in_thread else _is_readable(body)):
                why = why_unreadable(body)
                await _refusal(scope, str(why), why.field, 422)(scope, receive, send)
                return
        if body:  # curl's -d calls it a form
            kept = [pair for pair in scope["headers"] if pair[0] not in _OURS]
            length = (b"content-length", str(len(body)).encode())
            scope["headers"] = [*kept, (b"content-type", b"application/json"), length]
        await self._app(scope, _replay({"type": "http.request", "body": body, "more_body": False}, receive), send)


def _replay(first: Message, receive: Receive) -> Receive:
    messages = [first]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed


def _is_file(scope: Scope) -> bool:
    """Streamed, and read by no parser."""
    path: str = scope["path"]
    return path.startswith("/datasets/") or path == "/v1/files"


def _is_lines(scope: Scope) -> bool:
    """A log of another program's, in the form of its own."""
    return bool(scope["path"] == "/eval/imports")


def _is_readable(body: bytes) -> bool:
    """Blocks for about a ms a MB."""
    if body.strip() in _NOTHING:
        return True
    try:
        _members.decode(body)
        if _LONG_NUMBER.search(body) is not None:
            json.loads(body)
    except (msgspec.DecodeError, ValueError, RecursionError):  # bytes that are not UTF-8 are a ValueError
        return False
    return is_utf_8(body)


def _refusal(scope: Scope, text: str, field: str | None, status: int) -> JSONResponse:
    """In OpenAI's envelope, what cannot be understood is a 400."""
    code = "request_too_large" if status == 413 else "invalid_request"
    if not scope["path"].startswith("/v1/"):
        return JSONResponse({"detail": text, "code": code}, status)
    error = {"message": text, "type": "invalid_request_error", "param": field, "code": code}
    return JSONResponse({"error": error}, 400 if status == 422 else status)
