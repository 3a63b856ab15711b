"""The table of our own inference routes: who takes a request, how its body is read, and how it is refused."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from gateway.dialects.call import Call, Envelope
from gateway.errors import GatewayError, InvalidRequest
from gateway.http.asgi import App, ClientDisconnected, Receive, Scope, Send, read_body, send_json
from gateway.request.ask import ASK_KEY
from gateway.request.bounds import RequestBounds
from stepserve.readable import readable


@dataclass(frozen=True, slots=True)
class Route:
    """`handler` gets the call and the checked body (None where the route has none); a refusal is a GatewayError.

    `invalid_status` is what a body that cannot be understood gets.
    """

    method: str
    path: str
    summary: str
    handler: Callable[[Call, Any], Awaitable[None]]
    envelope: Envelope
    request: type[BaseModel] | None = None
    invalid_status: int = 422


class Dialects:
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

    def takes(self, scope: Scope) -> bool:
        return scope["path"] in self._by_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        methods = self._by_path[scope["path"]]
        route = methods.get("GET" if scope["method"] == "HEAD" else scope["method"])
        if route is None:
            some = next(iter(methods.values()))
            allowed = [(b"allow", ", ".join(methods).encode())]
            message = f"{scope['method']} {scope['path']}: Method Not Allowed"
            await send_json(send, 405, some.envelope(405, message, None), allowed)
            return
        call = Call(scope, receive, send, self._inner, route.envelope)
        try:
            body = await read_body(receive, self._max_request_bytes)
            if route.request is not None and ASK_KEY not in scope:
                scope[ASK_KEY] = await self._bounds.ask(body, scope["path"])
            await route.handler(call, _checked(route, body))
        except ClientDisconnected:
            return
        except InvalidRequest as error:
            await call.refuse(route.invalid_status, str(error), error.code)
        except GatewayError as error:
            await call.refuse(error.status, str(error), error.code, error.retry_after_s)


def _checked(route: Route, body: bytes) -> BaseModel | None:
    if route.request is None:
        return None
    try:
        return route.request.model_validate_json(body or b"{}")
    except ValidationError as error:
        raise InvalidRequest(readable(error.errors(include_url=False))) from error
