"""How fast files go to members, all of them together."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send


class Pace:
    """`bytes_per_s` None: as fast as it goes. Whoever asks gets turns in the order of asking."""

    def __init__(
        self,
        bytes_per_s: float | None,
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._bytes_per_s = bytes_per_s
        self._clock_s = clock_s
        self._sleep = sleep
        self._free_s = 0.0

    async def turn(self, length_bytes: int) -> None:
        """Returns when so many bytes may be sent."""
        if self._bytes_per_s is None or not length_bytes:
            return
        now_s = self._clock_s()
        begin_s = max(now_s, self._free_s)
        self._free_s = begin_s + length_bytes / self._bytes_per_s
        if begin_s > now_s:
            await self._sleep(begin_s - now_s)


class PacedFile(FileResponse):
    """A file, or a range of it, in pieces that each wait for their turn."""

    def __init__(self, path: Path, pace: Pace) -> None:
        super().__init__(path, media_type="application/octet-stream")
        self._pace = pace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def paced(message: Message) -> None:
            if message["type"] == "http.response.body":
                await self._pace.turn(len(message.get("body", b"")))
            await send(message)

        await super().__call__(scope, receive, paced)
