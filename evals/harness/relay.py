"""The only model that a harness gets: an OpenAI server on a loopback port that passes on what it may ask."""

import asyncio
import contextlib
import hmac
import json
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, Final

import uvicorn

from evals.harness.kept_answers import KeptAnswers, key_of
from stepserve.contract import AskItem, AskOutput
from stepserve.jobs.batch_scheduler import Send
from stepserve.jobs.errors import ServiceError

_ASKED: Final = frozenset({("POST", "/v1/completions"), ("POST", "/v1/chat/completions")})
_MOST_BODY_BYTES = 32 * 1024**2

_Message = MutableMapping[str, Any]


class Relay:
    """Asks the model of one job, and keeps the answers.

    `failed` is set, and `failure` there, once the engine cannot answer in a way that asking again does not mend: the
    run is over then. A request that the engine refuses is refused here in the same words.
    """

    def __init__(
        self, ask: Send[AskItem, AskOutput], model_id: str, answers: KeptAnswers, max_connections: int
    ) -> None:
        self._ask = ask
        self._model_id = model_id
        self._answers = answers
        self._places = asyncio.Semaphore(max_connections)
        self._requests: set[asyncio.Task[Any]] = set()
        self.key = secrets.token_urlsafe(32)
        self.failed = asyncio.Event()
        self.failure: ServiceError | OSError | None = None
        self.answered = 0
        self.replayed = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Its URL (`http://127.0.0.1:port`), where it answers for as long as the context lasts."""
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen(256)  # from here on a connection waits for the server below
        config = uvicorn.Config(
            self._app,
            interface="asgi3",
            lifespan="off",
            proxy_headers=False,
            ws="none",
            log_config=None,
            access_log=False,
            timeout_keep_alive=3600,
        )
        server = _Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]), name="relay of a harness")
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = server.force_exit = True
            for request in self._requests:
                request.cancel()
            await asyncio.wait({task, *self._requests})
            listener.close()

    async def _app(
        self,
        scope: _Message,
        receive: Callable[[], Awaitable[_Message]],
        send: Callable[[_Message], Awaitable[None]],
    ) -> None:
        request = asyncio.current_task()
        assert request is not None
        self._requests.add(request)
        request.add_done_callback(self._requests.discard)
        status, answer = await self._answer(scope, receive)
        content = json.dumps(answer).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, scope: _Message, receive: Callable[[], Awaitable[_Message]]) -> tuple[int, Any]:
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, f"Bearer {self.key}".encode()):
            return _refused(401, "this port is for the harness of one run alone")
        asked_for = (scope["method"], scope["path"])
        if asked_for == ("GET", "/v1/models"):
            return 200, {"object": "list", "data": [{"id": self._model_id, "object": "model", "owned_by": "stepserve"}]}
        if asked_for not in _ASKED:
            return _refused(404, f"{scope['path']} is not served to a harness: completions and chat completions are")
        return await self._asked(scope["path"], await _body(receive))

    async def _asked(self, path: str, body: dict[str, Any] | str) -> tuple[int, Any]:
        """`body`: a text is why it is refused."""
        if isinstance(body, str):
            return _refused(400, body)
        named = body.get("model")
        if named != self._model_id:
            return _refused(404, f"this run measures {self._model_id!r}: it cannot ask the model {named!r}")
        key = key_of(path, body)
        kept = self._answers.take(key)
        if kept is not None:
            self.replayed += 1
            self._count(kept)
            return 200, kept
        async with self._places:
            if self.failure is not None:
                return _refused(503, str(self.failure))
            try:
                (output,) = await self._ask([AskItem(path=path, body=body)])
                if output.status == 200:
                    self._answers.add(key, output.body)
            except (ServiceError, OSError) as error:
                self.failure = self.failure or error
                self.failed.set()
                return _refused(503, str(error))
        if output.status == 200:
            self._count(output.body)
        return output.status, output.body

    def _count(self, answer: Any) -> None:
        self.answered += 1
        usage = answer.get("usage") if isinstance(answer, dict) else None
        if isinstance(usage, dict):
            self.prompt_tokens += _tokens(usage, "prompt_tokens")
            self.completion_tokens += _tokens(usage, "completion_tokens")


class _Server(uvicorn.Server):
    """Signals are the process's own business."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _body(receive: Callable[[], Awaitable[_Message]]) -> dict[str, Any] | str:
    """A request, or why it is none that is answered here."""
    content = b""
    while True:
        message = await receive()
        content += bytes(message.get("body", b""))
        if len(content) > _MOST_BODY_BYTES:
            return f"a request may have {_MOST_BODY_BYTES} bytes"
        if not message.get("more_body"):
            break
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        return "the body is not a JSON object"
    return "stream: answers are given whole to a harness" if body.get("stream") else body


def _refused(status: int, reason: str) -> tuple[int, Any]:
    return status, {"error": {"message": reason, "type": "invalid_request_error", "param": None, "code": status}}


def _tokens(usage: dict[str, Any], name: str) -> int:
    count = usage.get(name)
    return count if isinstance(count, int) else 0
