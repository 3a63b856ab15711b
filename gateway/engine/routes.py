"""vLLM's two busiest routes, called with less ceremony than FastAPI has for them.

What answers is vLLM's own function. FastAPI's way to it leads over two stacks of contexts, a tree of dependencies and
forty routes to look at. Where a body is not what the function takes that way is gone after all, so every refusal is in
vLLM's words.
"""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from vllm.entrypoints.openai.chat_completion.api_router import create_chat_completion
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.api_router import create_completion
from vllm.entrypoints.openai.completion.protocol import CompletionRequest

from gateway.http.asgi import Receive, Scope, Send, replay

Answering = Callable[..., Awaitable[Response | None]]

_IN_THREAD_BYTES = 256 * 1024  # a few ms
_JSON = b"application/json"
_LONG_WAY = "stepserve.long_way"


def shorten(app: FastAPI) -> None:
    """Puts a short way before each of the two routes, where the model has it."""
    if getattr(app.state, "openai_serving_chat", None) is not None:
        _put(app, "/v1/chat/completions", ChatCompletionRequest, create_chat_completion)
    if getattr(app.state, "openai_serving_completion", None) is not None:
        _put(app, "/v1/completions", CompletionRequest, create_completion)


def _put(app: FastAPI, path: str, kind: type[BaseModel], answer: Answering) -> None:
    app.router.routes.insert(0, _ShortRoute(path, _ShortWay(app, kind, answer), methods=["POST"]))


class _ShortRoute(Route):
    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return (Match.NONE, {}) if _LONG_WAY in scope else super().matches(scope)


class _ShortWay:
    """Within vLLM's app: its layers and its handlers of errors are around this."""

    def __init__(self, app: FastAPI, kind: type[BaseModel], answer: Answering) -> None:
        self._app = app
        self._kind = kind
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        body = await request.body()
        large = len(body) > _IN_THREAD_BYTES
        asked = await asyncio.to_thread(self._parsed, scope, body) if large else self._parsed(scope, body)
        if asked is None:
            scope[_LONG_WAY] = True
            await self._app.router(scope, replay(body, receive), send)
            return
        response = await self._answer(asked, raw_request=request)
        if response is not None:  # None: the client has left
            await response(scope, receive, send)

    def _parsed(self, scope: Scope, body: bytes) -> BaseModel | None:
        """None for anything that is not as it should be."""
        kind = next((value for key, value in scope["headers"] if key == b"content-type"), b"")
        if kind.partition(b";")[0].strip().lower() != _JSON:
            return None
        try:
            return self._kind.model_validate(msgspec.json.decode(body))
        except (ValueError, RecursionError):  # of msgspec and of pydantic alike
            return None
