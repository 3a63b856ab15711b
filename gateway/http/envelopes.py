"""Errors on `/v1` in the words that a route's clients understand, whoever refused: the gateway, vLLM, a framework."""

from typing import Any

import msgspec

from gateway.http.asgi import Message, Send
from gateway.missing_template import CODE as NO_TEMPLATE
from gateway.missing_template import in_our_words

Json = dict[str, Any]

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
# What vLLM has no route for with this model; on other paths nothing is known of it.
_NOT_WITH_THIS_MODEL = {
    "/v1/embeddings": (
        "embeddings_not_supported",
        "The model generates text and makes no embeddings; register an embedding model for that.",
    )
} | dict.fromkeys(
    ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens"),
    ("generation_not_supported", "The model makes embeddings and generates no text."),
)
_NO_ROUTE = "Not Found"  # FastAPI's words for it
_ABORTED = b'data: {"error":'


def in_envelope(path: str, send: Send) -> Send:
    """A `send` that passes successes through untouched and gives every error its route's envelope."""
    return _Enveloped(path, send).send


class _Enveloped:
    def __init__(self, path: str, send: Send) -> None:
        self._path = path
        self._send = send
        self._anthropic = path.startswith("/v1/messages")
        self._refusal: Message | None = None
        self._body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            self._refusal = message
        elif self._refusal is not None:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._refuse(self._refusal)
        else:
            if self._anthropic and message.get("body", b"").startswith(_ABORTED):
                message = {**message, "body": _anthropic_event(message["body"])}
            await self._send(message)

    async def _refuse(self, start: Message) -> None:
        status, content = enveloped(self._path, start["status"], self._body, _model(start))
        body = msgspec.json.encode(content)
        headers = [
            pair for pair in start.get("headers", ()) if pair[0].lower() not in {b"content-length", b"content-type"}
        ]
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self._send({**start, "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def enveloped(path: str, status: int, body: bytes, model: str | None = None) -> tuple[int, Json]:
    """Status and body of a refusal, by that model, as the clients of `path` expect them."""
    error = _openai_error(status, body)
    if (no_template := in_our_words(str(error["message"]), model)) is not None:
        error = _error(status, no_template, "messages", NO_TEMPLATE)
    if path in _NOT_WITH_THIS_MODEL and status == 404 and error["message"] == _NO_ROUTE:
        status = 400
        code, message = _NOT_WITH_THIS_MODEL[path]
        error = _error(status, message, "model", code)
    if path.startswith("/v1/messages"):
        return status, _anthropic(status, error)
    return status, {"error": error}


def _model(start: Message) -> str | None:
    return next((value.decode() for key, value in start.get("headers", ()) if key == b"x-model-id"), None)


def _openai_error(status: int, body: bytes) -> Json:
    try:
        content = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        content = {}
    if isinstance(content, dict) and isinstance(content.get("error"), dict):
        return {"type": None, "param": None, "code": None, "message": "", **content["error"]}
    detail = content.get("detail") if isinstance(content, dict) else None
    return _error(status, detail if isinstance(detail, str) else "The request failed.", None, None)


def _error(status: int, message: str, param: str | None, code: str | None) -> Json:
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"message": message, "type": kind, "param": param, "code": code}


def _anthropic(status: int, error: Json) -> Json:
    kind = _ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return {"type": "error", "error": {"type": kind, "message": error["message"]}}


def _anthropic_event(event: bytes) -> bytes:
    content = msgspec.json.decode(event.removeprefix(b"data: ").strip())
    return b"event: error\ndata: " + msgspec.json.encode(_anthropic(503, content["error"])) + b"\n\n"
