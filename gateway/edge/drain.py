"""How a gateway stops: nothing new comes in, what is being answered may end, and readiness says so meanwhile."""

import asyncio
import logging

from gateway.access.deadlines import Deadlines
from gateway.errors import Unserved
from gateway.http.asgi import App, Receive, Scope, Send, send_json
from gateway.http.tracked_send import tracked

log = logging.getLogger(__name__)

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_RETRY_AFTER_S = 5.0


class Drain:
    """A layer over the public app. Until `run` it does nothing.

    Only inference holds the exit back: what is read, such as a stream of a job's events, is asked for again, and
    uploads are taken up where they were.
    """

    def __init__(self, app: App, deadlines: Deadlines) -> None:
        self._app = app
        self._deadlines = deadlines
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._begun or scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] == "/readyz":
            await send_json(send, 503, {"ready": False, "stopping": True}, [])
        elif scope["method"] in _READING:
            await self._app(scope, receive, send)
        else:
            await tracked(send, scope).fail(Unserved("The server is stopping.", _RETRY_AFTER_S))

    async def run(self, timeout_s: float) -> None:
        """Returns when nothing is being answered any more; what is after `timeout_s` ends with an error."""
        self._begun = True
        log.info("stopping, with %d requests in flight", self._deadlines.in_flight)
        try:
            async with asyncio.timeout(timeout_s):
                await self._deadlines.until_idle()
        except TimeoutError:
            log.warning("%d requests were not answered within %g s", self._deadlines.in_flight, timeout_s)
            reason = f"The server stopped before this was answered (setting drain_timeout_s, {timeout_s:g} s)."
            self._deadlines.end_all(Unserved(reason, _RETRY_AFTER_S))
