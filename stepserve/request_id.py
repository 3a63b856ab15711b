"""What a line of work belongs to: the request that asked for it, the job that does it, and the key that pays for it.

The id comes with `X-Request-Id` or is made at the door. It goes with the request from the gateway to the engine and to
control, is kept with a job that the request makes, and stands in every log line written meanwhile. The key's id goes
the same way, but into no log: what a job uses is charged to the key that made it.
"""

import os
import random
import re
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

REQUEST_ID_HEADER = "x-request-id"
JOB_ID_HEADER = "x-stepserve-job"
KEY_ID_HEADER = "x-stepserve-key"

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
job_id: ContextVar[str | None] = ContextVar("job_id", default=None)
key_id: ContextVar[str | None] = ContextVar("key_id", default=None)

_CARRIED = ((request_id, REQUEST_ID_HEADER), (job_id, JOB_ID_HEADER), (key_id, KEY_ID_HEADER))

_ACCEPTED = re.compile(rb"[A-Za-z0-9._:+/=@-]{1,128}")


_random = random.Random()  # noqa: S311 - an id is no secret, and asking the kernel costs each request tens of µs
os.register_at_fork(after_in_child=_random.seed)


def new_request_id() -> str:
    return f"req-{_random.getrandbits(96):024x}"


def accepted(given: bytes | None) -> str | None:
    """The client's own id if it can stand in logs and headers: up to 128 letters, digits and `._:+/=@-`."""
    return given.decode("ascii") if given is not None and _ACCEPTED.fullmatch(given) else None


def forwarded() -> dict[str, str]:
    """The headers that carry all of it to the next process."""
    return {name: value for variable, name in _CARRIED if (value := variable.get()) is not None}


class Traced:
    """ASGI middleware of the private sockets: what another process said the work belongs to holds here too."""

    def __init__(self, app: Callable[[Any, Any, Any], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        tokens = [(variable, variable.set(accepted(headers.get(name.encode())))) for variable, name in _CARRIED]
        try:
            await self._app(scope, receive, send)
        finally:
            for variable, token in tokens:
                variable.reset(token)
