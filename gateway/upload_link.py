"""PUT /models/{id}/files/{name}: the body goes from the socket to the file that control names, and to nobody else.

Control is asked before the first byte and told after the last one; it never sees the bytes pass, and proves them as
they lie on disk. So a checkpoint costs the gateway's event loop a few copies, and no second hop.
"""

import asyncio
import logging
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx

from gateway.asgi import Receive, Scope, Send, send_json
from gateway.control_link import ControlLink
from gateway.errors import GatewayError
from switchyard.contract import CLOSE_PIECE_PATH, OPEN_PIECE_PATH
from switchyard.full_disk import is_disk_full

log = logging.getLogger(__name__)

_PATH = re.compile(r"/models/([^/]+)/files/(.+)")
_WRITE_BYTES = 2 * 1024 * 1024
_MOST_PIECES = 512  # of the 1024 that the kernel takes at once
_PROOF_TIMEOUT_S = 600.0
_OPEN_TIMEOUT_S = 600.0  # what an earlier control left is proven again first


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
    """Two bodies at most are written at a time by threads of its own; at most 4 MiB of a body are in memory."""

    control: ControlLink
    _writers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(2, thread_name_prefix="upload"))

    @staticmethod
    def takes(scope: Scope) -> bool:
        return scope["method"] == "PUT" and _PATH.fullmatch(scope["path"]) is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        opened = await self._ask(OPEN_PIECE_PATH, _question(scope), _OPEN_TIMEOUT_S)
        if opened is None:
            await _away(send)
            return
        if opened.status_code != 200:
            await _relay(opened, send)
            return
        piece = _Piece(**opened.json())
        progress = _Progress()
        trouble: OSError | None = None
        try:
            await self._write(piece, receive, progress)
        except OSError as error:
            trouble = error
            log.error("%s cannot be written: %s", piece.path, error)
        except GatewayError:  # the client was silent for too long, say; what it has sent is kept
            await self._ask(CLOSE_PIECE_PATH, _report(piece, progress, None), _PROOF_TIMEOUT_S)
            raise
        closed = await self._ask(CLOSE_PIECE_PATH, _report(piece, progress, trouble), _PROOF_TIMEOUT_S)
        if closed is None:
            await _away(send)
        else:
            await _relay(closed, send)

    async def _write(self, piece: _Piece, receive: Receive, progress: _Progress) -> None:
        """Until all bytes are in the file, or the client goes away. Raises OSError, and what `receive` raises.

        One write is under way while the next is gathered.
        """
        loop = asyncio.get_running_loop()
        file = await loop.run_in_executor(self._writers, os.open, piece.path, os.O_WRONLY)
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
            os.close(file)

    async def _ask(self, path: str, body: dict[str, object], timeout_s: float) -> httpx.Response | None:
        try:
            return await self.control.ask(path, body, timeout_s)
        except httpx.HTTPError as error:
            log.warning("control does not answer %s: %s", path, error)
            return None


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
    match = _PATH.fullmatch(scope["path"])
    assert match is not None, "`takes` was asked before"
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    length = headers.get(b"content-length", "")
    return {
        "model_id": match[1],
        "name": match[2],
        "content_length": int(length) if length.isdecimal() else None,
        "content_range": headers.get(b"content-range"),
        "upload": headers.get(b"x-upload"),
        "sha256": headers.get(b"x-sha256"),
    }


async def _relay(answer: httpx.Response, send: Send) -> None:
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(answer.content)).encode())]
    await send({"type": "http.response.start", "status": answer.status_code, "headers": head})
    await send({"type": "http.response.body", "body": answer.content})


async def _away(send: Send) -> None:
    detail = "The control process does not answer; it is being restarted. What has arrived is kept."
    await send_json(send, 503, {"detail": detail, "code": "control_down"}, [(b"retry-after", b"2")])
