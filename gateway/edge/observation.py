"""What is noted of every request on the public port: its id, its line in the log, its place in the metrics."""

import logging
import time

from gateway.http.asgi import App, Message, Receive, Scope, Send
from gateway.http.tracing import Tracer
from gateway.http.tracked_send import TrackedSend, tracked
from gateway.metrics import note_request
from gateway.request.context import RequestContext
from stepserve.request_id import JOB_ID_HEADER, REQUEST_ID_HEADER, accepted, new_request_id, request_id
from stepserve.settings import LogSettings

log = logging.getLogger("gateway.requests")

_HEADER = REQUEST_ID_HEADER.encode()
_OURS = frozenset({_HEADER, JOB_ID_HEADER.encode()})
_LONGEST_BODY_BYTES = 64 * 1024


class RequestLogMiddleware:
    """The outermost layer of the public port: a request gets its context here, and whatever is answered, here or
    further in, is counted and logged once.
    """

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
        context = RequestContext.begin(scope)
        context.request_id = name
        response = tracked(send, scope)
        response.headers[_HEADER] = name.encode()
        route = context.match
        if route.row is not None and route.row.deprecation is not None:
            response.headers |= route.row.deprecation.headers
        span = self._tracer.begin(scope, route.label, name) if self._tracer and not route.quiet else None
        has_prompt = route.row is not None and route.row.time == "answer"
        said = bytearray()
        started_s = time.perf_counter()
        token = request_id.set(name)
        try:
            await self._app(scope, _kept(receive, said) if self._logs.prompts and has_prompt else receive, response)
        finally:
            context.body = None  # an idle connection keeps the scope, and one that has ended does in a circle
            self._end(scope, context, response, started_s, said)
            if span is not None:
                span.end(response.status, response.model, context.facts)
            request_id.reset(token)

    def _end(
        self, scope: Scope, context: RequestContext, response: TrackedSend, started_s: float, said: bytearray
    ) -> None:
        duration_s = time.perf_counter() - started_s
        note_request(context.match.label, response.model, response.status, context.key_class, duration_s)
        if not self._logs.requests or context.match.quiet:
            return
        line: dict[str, object] = {
            "event": "request",
            "method": scope["method"],
            "path": scope["path"],
            "status": response.status,
            "duration_ms": round(duration_s * 1e3, 1),
        }
        if response.started_s is not None:
            line["first_byte_ms"] = round((response.started_s - started_s) * 1e3, 1)
        if response.model:
            line["model"] = response.model
        if said:
            line["body"] = said.decode(errors="replace")
        log.info(line)


def _kept(receive: Receive, body: bytearray) -> Receive:
    """A `receive` that keeps the beginning of the body for the log, because somebody asked for that."""

    async def kept() -> Message:
        message = await receive()
        if message["type"] == "http.request":
            body.extend(message.get("body", b"")[: max(0, _LONGEST_BODY_BYTES - len(body))])
        return message

    return kept
