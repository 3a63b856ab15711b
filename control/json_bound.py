"""Bodies of so many JSON values that reading them, and telling what is wrong with each, would hold control up."""

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_VALUES = 200_000  # a reference of a few hundred prompts has as many log-probabilities


class JsonBound:
    """Middleware. Looks at no file: those come in forms, or past control's routes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _may_be_long(scope):
            await self._app(scope, receive, send)
            return
        messages: list[Message] = []
        values = 0
        while True:
            message = await receive()
            messages.append(message)
            body = message.get("body", b"")
            values += body.count(b",") + body.count(b"[") + body.count(b"{")
            if values > MOST_VALUES:
                await _refusal(scope)(scope, receive, send)
                return
            if not message.get("more_body", False):
                break
        messages.reverse()

        async def replayed() -> Message:
            return messages.pop() if messages else await receive()

        await self._app(scope, replayed, send)


def _may_be_long(scope: Scope) -> bool:
    if scope["path"].startswith("/datasets/") or scope["path"] == "/v1/files":  # streamed, and read by no parser
        return False
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"")
    return int(length) > MOST_VALUES if length.isdigit() else b"transfer-encoding" in headers


def _refusal(scope: Scope) -> JSONResponse:
    text = f"The body holds too much: at most {MOST_VALUES} values (commas and brackets are counted)."
    if scope["path"].startswith("/v1/"):
        error = {"message": text, "type": "invalid_request_error", "param": None, "code": "request_too_large"}
        return JSONResponse({"error": error}, 413)
    return JSONResponse({"detail": text, "code": "request_too_large"}, 413)
