"""A request's body, on its way to an open file: by a thread that copies it from the socket, or through the event loop.

At most 4 MiB of a body are in memory. A thread copies them where the connection can be taken over; where it cannot
(TLS, a body whose length nobody has said), or too many do so already, the event loop passes them on.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from gateway.errors import RequestTooLarge
from gateway.http.asgi import Message, Receive, Scope
from gateway.http.body_copier import BodyCopier
from gateway.http.connection import TAKE_BODY

TakeBody = Callable[[], tuple[bytes, int]]

_WRITE_BYTES = 2 * 1024 * 1024
_MOST_PIECES = 512  # of the 1024 that the kernel takes at once
_MOST_COPIERS = 8


@dataclass(slots=True)
class Arrival:
    """What of a body is in the file. `complete`: its end has come, and the client had not gone before."""

    written_bytes: int = 0
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Destination:
    """`file`: a descriptor. `length`: of the body, None where it was not announced; it may have `limit_bytes` then.
    `turn`: one thread writes at a time.
    """

    file: int
    position: int
    length: int | None
    turn: threading.Lock = field(default_factory=threading.Lock)
    limit_bytes: int | None = None


@dataclass(slots=True)
class BodyToFile:
    """A client may be silent for `patience_s` in the middle of a body. `at_once_bytes`: so much is waited for, half a
    second at most: with more of it a body comes faster, and less of one that breaks off is in the file.
    """

    patience_s: float
    name: str
    at_once_bytes: int = 1
    writers: ThreadPoolExecutor = field(init=False)
    _copiers: ThreadPoolExecutor = field(init=False)
    _copying: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.writers = ThreadPoolExecutor(2, thread_name_prefix=self.name)
        self._copiers = ThreadPoolExecutor(_MOST_COPIERS, thread_name_prefix=f"{self.name}-copy")

    async def fill(self, there: Destination, scope: Scope, receive: Receive, arrival: Arrival) -> None:
        """Until all bytes are in the file, or the client goes away. Raises OSError, RequestTimeout, RequestTooLarge."""
        message = await receive()
        extension = scope.get("extensions", {}).get(TAKE_BODY)
        more = message.get("more_body", False)
        if extension is None or there.length is None or self._copying >= _MOST_COPIERS or not more:
            await self._pass_on(there, _beginning_with(message, receive), arrival)
        else:
            await self._copy(there, there.length, message, extension["take"], arrival)

    async def _copy(self, there: Destination, length: int, first: Message, take: TakeBody, arrival: Arrival) -> None:
        try:
            begun, descriptor = take()
        except OSError:  # the client is gone
            return
        self._copying += 1
        copier = BodyCopier(
            descriptor,
            there.file,
            there.position,
            length,
            there.turn,
            self.patience_s,
            at_once_bytes=self.at_once_bytes,
        )
        pieces = [first.get("body", b""), begun]
        copied = asyncio.get_running_loop().run_in_executor(self._copiers, copier.run, pieces)
        try:
            await asyncio.shield(copied)
        finally:
            copier.stop()
            await asyncio.wait({copied})
            self._copying -= 1
            copied.exception()  # retrieved also when this request was cancelled
            arrival.written_bytes = copier.written_bytes
            arrival.complete = arrival.written_bytes == length

    async def _pass_on(self, there: Destination, receive: Receive, arrival: Arrival) -> None:
        """One write is under way while the next is gathered. Whatever ends this, none is left: the caller closes the
        file, and its descriptor becomes another's.
        """
        loop = asyncio.get_running_loop()
        writing: asyncio.Future[int] | None = None
        gathered, size, total, more = [], 0, 0, True
        try:
            while more:
                message = await receive()
                gone = message["type"] == "http.disconnect"
                more = message.get("more_body", False) and not gone
                if chunk := message.get("body", b""):
                    gathered.append(chunk)
                    size += len(chunk)
                    total += len(chunk)
                    if there.limit_bytes is not None and total > there.limit_bytes:
                        raise RequestTooLarge(there.limit_bytes)
                if size < _WRITE_BYTES and more:
                    continue
                if writing is not None:
                    arrival.written_bytes += await asyncio.shield(writing)
                    writing = None
                if gathered:
                    position = there.position + arrival.written_bytes
                    writing = loop.run_in_executor(self.writers, _write_all, there.file, gathered, position)
                    gathered, size = [], 0
            if writing is not None:
                arrival.written_bytes += await asyncio.shield(writing)
                writing = None
            arrival.complete = not gone and there.length in {None, arrival.written_bytes}
        finally:
            if writing is not None:
                await asyncio.wait({writing})
                if writing.exception() is None:
                    arrival.written_bytes += writing.result()


def _beginning_with(message: Message, receive: Receive) -> Receive:
    left = [message]

    async def received() -> Message:
        return left.pop() if left else await receive()

    return received


def _write_all(file: int, pieces: list[bytes], position: int) -> int:
    """All of them, one after the other, without a copy."""
    done = 0
    left = [memoryview(piece) for piece in pieces]
    while left:
        count = os.pwritev(file, left[:_MOST_PIECES], position + done)
        done += count
        while left and count >= len(left[0]):
            count -= len(left.pop(0))
        if left:
            left[0] = left[0][count:]
    return done
