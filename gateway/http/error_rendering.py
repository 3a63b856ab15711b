"""How a failure looks to a client: one renderer an envelope, for whole answers and for streams that have begun."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import msgspec

from gateway import missing_flags
from gateway.errors import GatewayError, InvalidRequest, MethodNotAllowed, ModelNotFound, Unauthorized
from gateway.missing_template import CODE as NO_TEMPLATE
from gateway.missing_template import in_our_words
from stepserve.route_table import Envelope, Match

Json = dict[str, Any]
Headers = list[tuple[bytes, bytes]]

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


@dataclass(frozen=True, slots=True)
class Failure:
    """What a client is told, before it is put into words. `kind` is OpenAI's `type`, where somebody has said one.

    `is_invalid`: the body could not be understood. `headers` come along with a whole answer.
    """

    status: int
    message: str
    code: Any = None
    param: Any = None
    kind: str | None = None
    is_invalid: bool = False
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @classmethod
    def of(cls, error: GatewayError) -> "Failure":
        headers: Headers = []
        if error.retry_after_s is not None:
            headers.append((b"retry-after", str(max(1, round(error.retry_after_s))).encode()))
        if isinstance(error, Unauthorized):
            headers.append((b"www-authenticate", b"Bearer"))
        if isinstance(error, MethodNotAllowed):
            headers.append((b"allow", ", ".join(error.allow).encode()))
        is_invalid = isinstance(error, InvalidRequest)
        return cls(error.status, str(error), error.code, error.param, None, is_invalid, tuple(headers))

    @classmethod
    def said(cls, status: int, body: bytes) -> "Failure":
        """An answer of somebody else's (vLLM, a framework, control), in whichever envelope it came."""
        try:
            content = msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            content = None
        error = content.get("error", content) if isinstance(content, dict) else None
        if isinstance(error, str):
            return cls(status, error)
        if not isinstance(error, dict):
            return cls(status, "The request failed.")
        message = error.get("message") or error.get("detail") or "The request failed."
        return cls(
            status,
            str(message),
            error.get("code"),
            error.get("param"),
            error.get("type"),
        )


def reworded(path: str, status: int, body: bytes, model: str | None = None) -> Failure:
    """What vLLM's app says on a path of its own, where it leaves out that the model, of that id, is at fault, or names
    a flag that nobody can give here.
    """
    failure = Failure.said(status, body)
    if (no_template := in_our_words(failure.message, model)) is not None:
        return Failure(status, no_template, NO_TEMPLATE, "messages")
    if (flag := missing_flags.in_our_words(failure.message)) is not None:
        return Failure(status, flag.advice, flag.code, flag.param)
    if path in _NOT_WITH_THIS_MODEL and status == 404 and failure.message == _NO_ROUTE:
        code, message = _NOT_WITH_THIS_MODEL[path]
        return Failure(400, message, code, "model")
    return failure


class Renderer(Protocol):
    """`status` and `body` are a whole answer; `event` is how a stream says that it will not be whole."""

    def status(self, failure: Failure) -> int: ...

    def body(self, failure: Failure) -> Json: ...

    def event(self, failure: Failure) -> bytes: ...


class _OpenAi:
    def status(self, failure: Failure) -> int:
        return failure.status

    def body(self, failure: Failure) -> Json:
        kind = failure.kind or ("invalid_request_error" if failure.status < 500 else "server_error")
        return {"error": {"message": failure.message, "type": kind, "param": failure.param, "code": failure.code}}

    def event(self, failure: Failure) -> bytes:
        return _sse(self.body(failure))


class _Anthropic:
    def status(self, failure: Failure) -> int:
        return failure.status

    def body(self, failure: Failure) -> Json:
        status = failure.status
        kind = _ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": failure.message}}

    def event(self, failure: Failure) -> bytes:
        return b"event: error\n" + _sse(self.body(failure))


class _Ollama:
    def status(self, failure: Failure) -> int:
        return failure.status

    def body(self, failure: Failure) -> Json:
        return {"error": failure.message}

    def event(self, failure: Failure) -> bytes:
        return msgspec.json.encode(self.body(failure)) + b"\n"


class _Native:
    """Our own routes, as FastAPI would answer: a body that cannot be understood is a 422."""

    def status(self, failure: Failure) -> int:
        return 422 if failure.is_invalid else failure.status

    def body(self, failure: Failure) -> Json:
        message = failure.message
        if failure.code == ModelNotFound.code:
            message = f"Model not available locally: {message} POST /pull fetches a model."
        return {"detail": message, "code": failure.code} if isinstance(failure.code, str) else {"detail": message}

    def event(self, failure: Failure) -> bytes:
        return b"event: error\n" + _sse(self.body(failure))


class _NativeAnswer(_Native):
    """Of the routes that ask a model, whose streams have no named events."""

    def event(self, failure: Failure) -> bytes:
        return _sse({**OPENAI.body(failure), "done": True})


OPENAI = _OpenAi()
NATIVE_ANSWER = _NativeAnswer()
_NATIVE = _Native()
_RENDERERS: Mapping[Envelope, Renderer] = {
    "openai": OPENAI, "anthropic": _Anthropic(), "ollama": _Ollama(), "native": _NATIVE
}  # fmt: skip


def renderer_of(match: Match) -> Renderer:
    """In which words a route refuses, and how its streams fail."""
    if match.envelope == "native" and match.row is not None and match.row.time == "answer":
        return NATIVE_ANSWER
    return _RENDERERS[match.envelope]


def with_headers(failure: Failure, headers: Headers) -> Failure:
    return replace(failure, headers=tuple(headers))


def _sse(content: Json) -> bytes:
    return b"data: " + msgspec.json.encode(content) + b"\n\n"
