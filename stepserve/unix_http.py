"""HTTP over a Unix socket: between the two processes of a server."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import httpx

log = logging.getLogger(__name__)


def expect_late_readiness(loop: asyncio.AbstractEventLoop) -> None:
    """Keeps an error without a consequence out of the log; whatever else an event loop reports is reported as before.

    anyio waits for a Unix socket by `add_reader(socket, future.set_result)` and removes the reader once the future is
    done. Under load uvloop may find the socket ready twice before that, and the second call raises InvalidStateError in
    the loop: the first has woken whoever waited, so nothing is lost.
    """

    def report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        is_late = isinstance(context.get("exception"), asyncio.InvalidStateError)
        if is_late and "Future.set_result" in repr(context.get("handle")):
            log.debug("a socket was ready twice")
        else:
            loop.default_exception_handler(context)

    loop.set_exception_handler(report)


def unix_transport(socket: Path) -> httpx.AsyncHTTPTransport:
    """As many connections as there are requests: an event stream has one for as long as it is watched.

    Idle ones are dropped sooner than either process would, so none is stale, and one is kept: of several that have
    ended a request that is cancelled in its first moment would close the first and forget the others (httpcore 1.0). No
    TLS is ever spoken there, so none is prepared: reading the certificates alone takes 60 ms.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=1, keepalive_expiry=3.0)
    return httpx.AsyncHTTPTransport(uds=str(socket), verify=False, limits=limits)
