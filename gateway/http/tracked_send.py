"""The one answer to a request on its way out: how far it is, and how it fails so that its client notices."""

import time
from collections.abc import Callable

import msgspec

from gateway.errors import GatewayError
from gateway.http.asgi import Message, Scope, Send
from gateway.http.error_rendering import Failure, Renderer, renderer_of, reworded
from gateway.request.context import RequestContext

NO_ANSWER = 499  # as nginx has it: the client went away before there was one
_EVENTS = b"text/event-stream"
_STREAMS = (_EVENTS, b"application/x-ndjson")
_OF_THE_BODY = frozenset({b"content-length", b"content-type"})


class TrackedSend:
    """A `send` that knows what has been sent. Every layer between the edge and an engine shares it.

    `given_up` is set once the answer has failed: whatever its app still sends goes nowhere. `headers` are put on the
    answer, in the place of any of the same name. `rewords`: refusals of the app's come from vLLM's route of that path
    and are put into the client's words. `objection` is asked when an answer of that status begins, and may fail it.
    `hears` is told of every message that was sent.
    """

    __slots__ = (
        "_comments", "_has_events", "_held", "_held_body", "_may_tell", "_send", "blocked_since_s", "ended", "given_up",
        "headers", "hears", "is_stream", "model", "objection", "renderer", "rewords", "started", "started_s", "status",
    )  # fmt: skip

    def __init__(self, send: Send, renderer: Renderer) -> None:
        self.renderer = renderer
        self.status = NO_ANSWER
        self.model = ""
        self.started = False
        self.started_s: float | None = None
        self.is_stream = False
        self.ended = False
        self.blocked_since_s: float | None = None
        self.given_up: GatewayError | None = None
        self.headers: dict[bytes, bytes] = {}
        self.rewords: str | None = None
        self.objection: Callable[[int], GatewayError | None] | None = None
        self.hears: Callable[[Message], None] | None = None
        self._send = send
        self._held: Message | None = None
        self._held_body = b""
        self._may_tell = True
        self._has_events = False
        self._comments = b""

    async def __call__(self, message: Message) -> None:
        if self.given_up is not None:
            return
        if message["type"] == "http.response.start":
            status: int = message["status"]
            if self.objection is not None and (error := self.objection(status)) is not None:
                await self.fail(error)
            elif status >= 400 and self.rewords is not None:
                self._held = message
            else:
                await self._start(message)
        elif self._held is not None:
            self._held_body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._reword(self._held, self.rewords or "")
        elif self._comments and message.get("body"):
            comments, self._comments = self._comments, b""
            await self._pass({**message, "body": comments + message["body"]})
        else:
            await self._pass(message)

    def comment(self, text: str) -> None:
        """Put before the next event of a stream that has begun, as a comment: clients that look for none see none. An
        app sends whole events.
        """
        if self._has_events and not self.ended:
            self._comments += f": {text}\n\n".encode()

    def give_up(self, error: GatewayError) -> None:
        """From now on the app is not heard. `tell` must follow; nobody is told who takes nothing."""
        if self.given_up is None:
            self.given_up = _without_frames(error)
            self._may_tell = self.blocked_since_s is None

    async def tell(self) -> None:
        """Says why the answer was given up. One that has begun is left open, so that the web server cuts the
        connection: a stream after its error event, anything else where it is. No answer ever ends as if whole.
        """
        error = self.given_up
        assert error is not None, "`give_up` comes first"
        if not self._may_tell:
            return
        self._may_tell = False
        if not self.started:
            await self._refuse(Failure.of(error))
        elif self.is_stream and not self.ended:
            body = self.renderer.event(Failure.of(error))
            await self._pass({"type": "http.response.body", "body": body, "more_body": True})

    async def fail(self, error: GatewayError) -> None:
        """Gives the answer up and says why, unless it was given up before."""
        if self.given_up is None:
            self.give_up(error)
            await self.tell()

    async def refuse(self, failure: Failure) -> None:
        """Answers with a refusal. Nothing may have been sent."""
        if self.given_up is None:
            await self._refuse(failure)

    async def _refuse(self, failure: Failure) -> None:
        body = msgspec.json.encode(self.renderer.body(failure))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        status = self.renderer.status(failure)
        await self._start({"type": "http.response.start", "status": status, "headers": [*headers, *failure.headers]})
        await self._pass({"type": "http.response.body", "body": body})

    async def _reword(self, start: Message, path: str) -> None:
        said = {key.lower(): value for key, value in start.get("headers", ())} | self.headers
        model = said.get(b"x-model-id", b"").decode("latin-1") or None
        failure = reworded(path, start["status"], self._held_body, model)
        kept = tuple(pair for pair in start.get("headers", ()) if pair[0].lower() not in _OF_THE_BODY)
        await self._refuse(
            Failure(failure.status, failure.message, failure.code, failure.param, failure.kind, headers=kept)
        )

    async def _start(self, message: Message) -> None:
        headers = message.get("headers", ())
        if self.headers:
            headers = [pair for pair in headers if pair[0].lower() not in self.headers]
            headers.extend(self.headers.items())
            message = {**message, "headers": headers}
        for name, value in headers:
            if name == b"content-type":
                self.is_stream, self._has_events = value.startswith(_STREAMS), value.startswith(_EVENTS)
            elif name == b"x-model-id":
                self.model = value.decode("latin-1")
        self.started, self.started_s = True, time.perf_counter()
        self.status = message["status"]
        await self._pass(message)

    async def _pass(self, message: Message) -> None:
        self.blocked_since_s = time.monotonic()
        try:
            await self._send(message)
        finally:
            self.blocked_since_s = None
        if self.hears is not None:
            self.hears(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.ended = True


def _without_frames(error: GatewayError) -> GatewayError:
    """The same error, of which nothing leads back to the frames that it came through.

    They hold the request's body and whoever keeps this error: a circle, and so megabytes that wait for the garbage
    collector, which comes seldom (stepserve.process.spare_collector).
    """
    each: BaseException | None = error
    seen: set[int] = set()
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        each.__traceback__ = None
        each = each.__cause__ or each.__context__
    return error


def tracked(send: Send, scope: Scope) -> TrackedSend:
    """The answer's own `send`; one that another layer (CORS) has wrapped, or nobody yet, is tracked from here on."""
    if isinstance(send, TrackedSend):
        return send
    return TrackedSend(send, renderer_of(RequestContext.of(scope).match))
