"""Where the public port listens: on loopback alone until somebody has made a key, or has said that none is wanted."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import uvicorn

from gateway.http.early_port import EarlyPort
from stepserve.address import is_loopback, loopback_for

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.05  # uvicorn says by a flag alone that it listens

MakeServer = Callable[[str], uvicorn.Server]


class PublicListener:
    """`make` builds a server for an address. `reachable` returns when others than this machine may come in. `early`:
    what listens already, for the first server there.
    """

    def __init__(
        self,
        make: MakeServer,
        host: str,
        *,
        reachable_now: bool,
        reachable: Callable[[], Awaitable[None]],
        early: EarlyPort | None = None,
    ):
        self._early = early
        self._make = make
        self._host = host
        self._reachable_now = reachable_now or is_loopback(host)
        self._reachable = reachable
        self._servers: list[uvicorn.Server] = []

    async def serve(self) -> None:
        """Until `stop`."""
        if self._reachable_now:
            await self._start(self._host)
            return
        narrow_host = loopback_for(self._host)
        log.warning(
            "no keys exist, so the server listens on %s (loopback) and not on %s until a key is created"
            " (stepserve keys create) or given (INFERENCE_ACCESS__ADMIN_KEY), or access.mode is open",
            narrow_host,
            self._host,
        )
        narrow = asyncio.create_task(self._start(narrow_host))
        allowed = asyncio.ensure_future(self._reachable())
        try:
            await asyncio.wait((narrow, allowed), return_when=asyncio.FIRST_COMPLETED)
            if narrow.done():
                narrow.result()
                return
            for listener in self._servers[0].servers:  # what is connected stays so
                listener.close()
            log.info("there are keys now: listening on %s", self._host)
            await asyncio.gather(narrow, self._start(self._host))
        finally:
            allowed.cancel()
            narrow.cancel()

    async def opened(self, patience_s: float) -> None:
        """Returns once `host` itself is listened to, or after `patience_s`: there may be no keys for very long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while True:
                    if any(server.started for server in self._servers if server.config.host == self._host):
                        return
                    await asyncio.sleep(_LOOK_EVERY_S)

    def stop(self) -> None:
        for server in self._servers:
            server.should_exit = True

    async def _start(self, host: str) -> None:
        server = self._make(host)
        self._servers.append(server)
        await server.serve(self._early.take(host) if self._early is not None else None)
