"""Whole requests asked from inside, as the jobs of control do: any inference route, below interactive traffic."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass

import msgspec

from gateway.dialects.router import ProtocolAdapters
from gateway.errors import DigestMismatch, InvalidRequest, ModelNotFound, NotLoaded, Unserved
from gateway.http.asgi import App, Message, Receive, Scope
from gateway.inference.dispatch import Dispatch
from gateway.request.body import RequestBody
from gateway.request.context import RequestContext
from gateway.request.estimate import NOTHING
from gateway.serving.batch_share import BatchShare
from stepserve.contract import BATCH_PRIORITY, AskItem, AskOutput, AskRequest, AskResult

_HEADERS = [(b"content-type", b"application/json")]
_WORTH_A_RETRY = (429, 502, 503)


@dataclass(frozen=True, slots=True)
class Inference:
    """`slots` is `dispatch` behind the filters. `places`: how many sequences are asked for at once.

    Beyond that requests wait here, where they cost little.
    """

    dispatch: Dispatch
    slots: App
    adapters: ProtocolAdapters
    places: BatchShare

    async def ask(self, request: AskRequest) -> AskResult:
        """Asks every item at once. An item that is refused fails alone.

        Raises ModelNotFound and DigestMismatch when another model answers, Unserved when any could not be served now.
        """
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._one(request, item)) for item in request.items]
        except* (ModelNotFound, DigestMismatch, Unserved, InvalidRequest) as errors:
            raise errors.exceptions[0] from None
        return AskResult(model=request.model, digest=request.digest, outputs=[task.result() for task in tasks])

    async def _one(self, request: AskRequest, item: AskItem) -> AskOutput:
        answer = _Answer()
        body = self._body(item, request.model)
        scope, receive = _scope(item.path, body)
        context = RequestContext.begin(scope)
        row = context.match.row
        if row is None or row.time != "answer" or row.owner not in {"slot", "gateway"}:
            raise InvalidRequest(f"{item.path} is not an inference route")
        route: App = self.slots if row.owner == "slot" else self.adapters
        context.priority = BATCH_PRIORITY
        context.body = RequestBody(body)
        with suppress(InvalidRequest):  # which the route says in its own words
            context.estimate = await self.dispatch.bounds.estimate(context.body, item.path)
        async with self.places.place((context.estimate or NOTHING).sequences.total):
            await route(scope, receive, answer.send)
        said = answer.decoded()
        if answer.status in _WORTH_A_RETRY:
            raise Unserved(f"{item.path} was answered with {answer.status}: {said}", 1.0)
        by = answer.headers.get(b"x-model-id", b"").decode()
        digest = answer.headers.get(b"x-model-digest", b"").decode()
        if _code(said) in (ModelNotFound.code, NotLoaded.code) or (by and by != request.model):
            raise ModelNotFound(request.model, [by] if by else [])
        if answer.status == 200 and digest != request.digest:
            raise DigestMismatch(request.model, request.digest, digest)
        return AskOutput(status=answer.status, body=said)

    def _body(self, item: AskItem, model: str) -> bytes:
        forced: dict[str, object] = {"model": model}
        if item.path.startswith("/v1/"):
            forced["priority"] = BATCH_PRIORITY
        named = item.body.get("model")
        preset = self.dispatch.naming.preset(named, item.path) if isinstance(named, str) else {}
        return msgspec.json.encode({**preset, **item.body, **forced})


def _scope(path: str, body: bytes) -> tuple[Scope, Receive]:
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:
            await asyncio.Event().wait()  # who asks from inside leaves by being cancelled
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [*_HEADERS, (b"content-length", str(len(body)).encode())],
        "client": None,
        "server": None,
        "state": {},
    }
    return scope, receive


def _code(body: object) -> object:
    """The error's code, in whichever envelope."""
    if not isinstance(body, dict):
        return None
    error = body.get("error")
    return (error if isinstance(error, dict) else body).get("code")


class _Answer:
    def __init__(self) -> None:
        self.status = 503
        self.headers: dict[bytes, bytes] = {}
        self._body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {key.lower(): value for key, value in message.get("headers", ())}
        else:
            self._body += message.get("body", b"")

    def decoded(self) -> object:
        try:
            return msgspec.json.decode(self._body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._body.decode(errors="replace")
