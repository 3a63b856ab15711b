"""What is noted of every request on the public port: its id, its line in the log, its place in the metrics."""

import logging
import time
from dataclasses import dataclass, field

from gateway.http.asgi import App, Message, Receive, Scope, Send
from gateway.http.tracing import Tracer
from gateway.inference.dispatch import POST_PATHS
from gateway.metrics import note_request
from gateway.request.routes import route_of
from stepserve.request_id import JOB_ID_HEADER, REQUEST_ID_HEADER, accepted, new_request_id, request_id
from stepserve.settings import LogSettings

log = logging.getLogger("gateway.requests")

KEY_CLASS = "stepserve.key_class"
"""Where in a scope stands what sort of key the request came with."""

_HEADER = REQUEST_ID_HEADER.encode()
_OURS = frozenset({_HEADER, JOB_ID_HEADER.encode()})
_NO_ANSWER = 499  # as nginx has it: the client went away before there was one
_QUIET = frozenset({"/livez", "/readyz", "/health", "/metrics"})
_WITH_PROMPTS = POST_PATHS | {"/generate", "/chat", "/solve", "/api/chat", "/api/generate"}
_LONGEST_BODY_BYTES = 64 * 1024


@dataclass(slots=True)
class _Seen:
    send: Send
    identity: bytes
    started_s: float
    status: int = _NO_ANSWER
    model: str = ""
    first_byte_s: float | None = None
    body: bytearray = field(default_factory=bytearray)

    async def note(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.first_byte_s = time.perf_counter() - self.started_s
            self.status = message["status"]
            headers = [pair for pair in message.get("headers", ()) if pair[0].lower() != _HEADER]
            for key, value in headers:
                if key == b"x-model-id":
                    self.model = value.decode("latin-1")
            message["headers"] = [*headers, (_HEADER, self.identity)]
        await self.send(message)


class Observed:
    """The outermost layer of the public port: whatever is answered, here or further in, is counted and logged once."""

    def __init__(self, app: App, logs: LogSettings, tracer: Tracer | None = None) -> None:
        self._app = app
        self._logs = logs
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = next((value for key, value in scope["headers"] if key == _HEADER), None)
        name = accepted(given)
        if name is None:
            name = new_request_id()
        # Which job a request belongs to is for control to say, on the private socket.
        others = [pair for pair in scope["headers"] if pair[0] not in _OURS]
        scope["headers"] = [*others, (_HEADER, name.encode())]
        seen = _Seen(send, name.encode(), time.perf_counter())
        route = route_of(scope["path"])
        span = self._tracer.begin(scope, route, name) if self._tracer and route not in _QUIET else None
        keeps = self._logs.prompts and route in _WITH_PROMPTS
        token = request_id.set(name)
        try:
            await self._app(scope, _kept(receive, seen.body) if keeps else receive, seen.note)
        finally:
            self._end(scope, route, seen)
            if span is not None:
                span.end(seen.status, seen.model)
            request_id.reset(token)

    def _end(self, scope: Scope, route: str, seen: _Seen) -> None:
        duration_s = time.perf_counter() - seen.started_s
        key_class = str(scope.get(KEY_CLASS, "none"))
        note_request(route, seen.model, seen.status, key_class, duration_s)
        if not self._logs.requests or route in _QUIET:
            return
        line: dict[str, object] = {
            "event": "request",
            "method": scope["method"],
            "path": scope["path"],
            "status": seen.status,
            "duration_ms": round(duration_s * 1e3, 1),
        }
        if seen.first_byte_s is not None:
            line["first_byte_ms"] = round(seen.first_byte_s * 1e3, 1)
        if seen.model:
            line["model"] = seen.model
        if seen.body:
            line["body"] = seen.body.decode(errors="replace")
        log.info(line)


def _kept(receive: Receive, body: bytearray) -> Receive:
    """A `receive` that keeps the beginning of the body for the log, because somebody asked for that."""

    async def kept() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            body.extend(message.get("body", b"")[: max(0, _LONGEST_BODY_BYTES - len(body))])
        return message

    return kept
