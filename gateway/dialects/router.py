"""The table of our own inference routes: who takes a request, how its body is read, and how it is refused."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from gateway.dialects.call import Call
from gateway.errors import GatewayError, InvalidRequest
from gateway.http.asgi import App, ClientDisconnected, Receive, Scope, Send, read_body
from gateway.http.bounded_body import read_within
from gateway.http.tracked_send import tracked
from gateway.request.bounds import RequestBounds
from gateway.request.context import RequestContext
from stepserve.readable import readable


@dataclass(frozen=True, slots=True)
class Route:
    """`handler` gets the call and the checked body (None where the route has none); a refusal is a GatewayError."""

    method: str
    path: str
    summary: str
    handler: Callable[[Call, Any], Awaitable[None]]
    request: type[BaseModel] | None = None


class ProtocolAdapters:
    """An ASGI app over the routes. `inner` answers vLLM's own routes."""

    def __init__(
        self, inner: App, routes: Iterable[Route], max_request_bytes: int, bounds: RequestBounds | None = None
    ) -> None:
        self._inner = inner
        self._bounds = bounds or RequestBounds.unbounded()
        self._max_request_bytes = max_request_bytes
        self.routes: list[Route] = []
        self._by_path: dict[str, dict[str, Route]] = {}
        for route in routes:
            self.add(route)

    def add(self, route: Route) -> None:
        self.routes.append(route)
        self._by_path.setdefault(route.path, {})[route.method] = route

    def has(self, path: str) -> bool:
        return path in self._by_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """For a method that the route takes."""
        route = self._by_path[scope["path"]]["GET" if scope["method"] == "HEAD" else scope["method"]]
        response = tracked(send, scope)
        call = Call(scope, receive, response, self._inner)
        try:
            await route.handler(call, await self._checked(route, scope, receive))
        except ClientDisconnected:
            return
        except GatewayError as error:
            await response.fail(error)

    async def _checked(self, route: Route, scope: Scope, receive: Receive) -> BaseModel | None:
        if route.request is None:
            await read_body(receive, self._max_request_bytes)  # a body that nobody asked for
            return None
        context = RequestContext.of(scope)
        body = await read_within(self._bounds, context, receive, self._max_request_bytes, scope["path"])
        return _model_of(route.request, body.raw)


def _model_of(kind: type[BaseModel], body: bytes) -> BaseModel:
    """Raises InvalidRequest."""
    try:
        return kind.model_validate_json(body or b"{}")
    except ValidationError as error:
        raise InvalidRequest(readable(error.errors(include_url=False))) from error
