"""PUT /models/{id}/files/{name}: the body goes from the socket to the file that control names, and to nobody else.

Control is asked before the first byte and told after the last one; it never sees the bytes pass, and proves them as
they lie on disk. A thread copies them from the socket to the file; where it cannot (TLS), or too many do so already,
the event loop passes them on.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import httpx

from gateway.errors import ControlDown, GatewayError
from gateway.http.asgi import Message, Receive, Scope, Send
from gateway.http.body_copier import BodyCopier
from gateway.http.connection import TAKE_BODY
from gateway.http.tracked_send import tracked
from gateway.request.context import RequestContext
from gateway.sidecar.control_link import ControlProxy
from stepserve.contract import CLOSE_PIECE_PATH, OPEN_PIECE_PATH
from stepserve.full_disk import is_disk_full

log = logging.getLogger(__name__)

TakeBody = Callable[[], tuple[bytes, int]]

_WRITE_BYTES = 2 * 1024 * 1024
_MOST_PIECES = 512  # of the 1024 that the kernel takes at once
_PROOF_TIMEOUT_S = 600.0
_OPEN_TIMEOUT_S = 600.0  # what an earlier control left is proven again first
_MOST_COPIERS = 8


@dataclass(frozen=True, slots=True)
class _Piece:
    ticket: str
    path: str
    offset: int
    length: int


@dataclass(slots=True)
class _Progress:
    written_bytes: int = 0


@dataclass(slots=True)
class UploadLink:
    """At most 4 MiB of a body are in memory. A client may be silent for `patience_s` in the middle of one."""

    control: ControlProxy
    patience_s: float
    _writers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, thread_name_prefix="upload"))
    _copiers: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(_MOST_COPIERS, thread_name_prefix="upload-copy")
    )
    _copying: int = 0
    _closing: set[asyncio.Task[httpx.Response | None]] = field(default_factory=set)
    _turns: WeakValueDictionary[str, threading.Lock] = field(default_factory=WeakValueDictionary)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        opened = await self._ask(OPEN_PIECE_PATH, _question(scope), _OPEN_TIMEOUT_S)
        if opened is None:
            await tracked(send, scope).fail(ControlDown("What has arrived is kept."))
            return
        if opened.status_code != 200:
            await _relay(opened, send)
            return
        piece = _Piece(**opened.json())
        progress = _Progress()
        trouble: OSError | None = None
        try:
            await self._fill(piece, scope, receive, progress)
        except OSError as error:
            trouble = error
            log.error("%s cannot be written: %s", piece.path, error)
        except GatewayError:  # the client was silent for too long, say; what it has sent is kept
            await self._ask(CLOSE_PIECE_PATH, _report(piece, progress, None), _PROOF_TIMEOUT_S)
            raise
        except asyncio.CancelledError:  # its key is not valid any more, say; nobody waits for the proof of what came
            closing = asyncio.create_task(
                self._ask(CLOSE_PIECE_PATH, _report(piece, progress, None), _PROOF_TIMEOUT_S), name="close a piece"
            )
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            raise
        closed = await self._ask(CLOSE_PIECE_PATH, _report(piece, progress, trouble), _PROOF_TIMEOUT_S)
        if closed is None:
            await tracked(send, scope).fail(ControlDown("What has arrived is kept."))
        else:
            await _relay(closed, send)

    async def _fill(self, piece: _Piece, scope: Scope, receive: Receive, progress: _Progress) -> None:
        """Until all bytes are in the file, or the client goes away. Raises OSError, RequestTimeout."""
        only_a_file = os.O_WRONLY | os.O_NOFOLLOW
        file = await asyncio.get_running_loop().run_in_executor(self._writers, os.open, piece.path, only_a_file)
        try:
            message = await receive()
            extension = scope.get("extensions", {}).get(TAKE_BODY)
            if extension is None or self._copying >= _MOST_COPIERS or not message.get("more_body", False):
                await self._pass_on(file, piece, _beginning_with(message, receive), progress)
            else:
                await self._copy(file, piece, message, extension["take"], progress)
        finally:
            os.close(file)

    async def _copy(self, file: int, piece: _Piece, first: Message, take: TakeBody, progress: _Progress) -> None:
        try:
            begun, descriptor = take()
        except OSError:  # the client is gone
            return
        self._copying += 1
        turn = self._turns.setdefault(piece.path, threading.Lock())
        copier = BodyCopier(descriptor, file, piece.offset, piece.length, turn, self.patience_s)
        pieces = [first.get("body", b""), begun]
        copied = asyncio.get_running_loop().run_in_executor(self._copiers, copier.run, pieces)
        try:
            await asyncio.shield(copied)
        finally:
            copier.stop()
            await asyncio.wait({copied})
            self._copying -= 1
            copied.exception()  # retrieved also when this request was cancelled
            progress.written_bytes = copier.written_bytes

    async def _pass_on(self, file: int, piece: _Piece, receive: Receive, progress: _Progress) -> None:
        """One write is under way while the next is gathered."""
        loop = asyncio.get_running_loop()
        writing: asyncio.Future[int] | None = None
        gathered, size, more = [], 0, True
        try:
            while more:
                message = await receive()
                more = message.get("more_body", False) and message["type"] != "http.disconnect"
                if chunk := message.get("body", b""):
                    gathered.append(chunk)
                    size += len(chunk)
                if size < _WRITE_BYTES and more:
                    continue
                if writing is not None:
                    progress.written_bytes += await writing
                    writing = None
                if gathered:
                    position = piece.offset + progress.written_bytes
                    writing = loop.run_in_executor(self._writers, _write_all, file, gathered, position)
                    gathered, size = [], 0
            if writing is not None:
                progress.written_bytes += await writing
                writing = None
        finally:
            if writing is not None:
                await asyncio.wait({writing})
                if writing.exception() is None:
                    progress.written_bytes += writing.result()

    async def _ask(self, path: str, body: dict[str, object], timeout_s: float) -> httpx.Response | None:
        try:
            return await self.control.ask(path, body, timeout_s)
        except httpx.HTTPError as error:
            log.warning("control does not answer %s: %s", path, error)
            return None


def _beginning_with(message: Message, receive: Receive) -> Receive:
    left = [message]

    async def received() -> Message:
        return left.pop() if left else await receive()

    return received


def _report(piece: _Piece, progress: _Progress, trouble: OSError | None) -> dict[str, object]:
    return {
        "ticket": piece.ticket,
        "written_bytes": progress.written_bytes,
        "trouble": trouble.strerror if trouble else None,
        "disk_full": trouble is not None and is_disk_full(trouble),
    }


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


def _question(scope: Scope) -> dict[str, object]:
    params = RequestContext.of(scope).match.params
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    length = headers.get(b"content-length", "")
    return {
        "model_id": params["model_id"],
        "name": params["name"],
        "content_length": int(length) if length.isdecimal() else None,
        "content_range": headers.get(b"content-range"),
        "upload": headers.get(b"x-upload"),
        "sha256": headers.get(b"x-sha256"),
    }


async def _relay(answer: httpx.Response, send: Send) -> None:
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(answer.content)).encode())]
    await send({"type": "http.response.start", "status": answer.status_code, "headers": head})
    await send({"type": "http.response.body", "body": answer.content})
