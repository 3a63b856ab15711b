"""PUT /models/{id}/files/{name}: the body goes from the socket to the file that control names, and to nobody else.

Control is asked before the first byte and told after the last one; it never sees the bytes pass, and proves them as
they lie on disk.
"""

import asyncio
import logging
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakValueDictionary

import httpx

from gateway.errors import ControlDown, GatewayError
from gateway.http.asgi import Receive, Scope, Send
from gateway.http.body_to_file import Arrival, BodyToFile, Destination
from gateway.http.tracked_send import tracked
from gateway.request.context import RequestContext
from gateway.sidecar.control_link import ControlProxy
from stepserve.contract import CLOSE_PIECE_PATH, OPEN_PIECE_PATH
from stepserve.full_disk import is_disk_full
from stepserve.own_files import open_own

log = logging.getLogger(__name__)

_PROOF_TIMEOUT_S = 600.0
_OPEN_TIMEOUT_S = 600.0  # what an earlier control left is proven again first


@dataclass(frozen=True, slots=True)
class _Piece:
    ticket: str
    path: str
    offset: int
    length: int


@dataclass(slots=True)
class UploadLink:
    """A client may be silent for `patience_s` in the middle of a body."""

    control: ControlProxy
    patience_s: float
    _bodies: BodyToFile = field(init=False)
    _closing: set[asyncio.Task[httpx.Response | None]] = field(default_factory=set)
    _turns: WeakValueDictionary[str, threading.Lock] = field(default_factory=WeakValueDictionary)

    def __post_init__(self) -> None:
        self._bodies = BodyToFile(self.patience_s, "upload")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        opened = await self._ask(OPEN_PIECE_PATH, _question(scope), _OPEN_TIMEOUT_S)
        if opened is None:
            await tracked(send, scope).fail(ControlDown("The bytes that arrived are kept."))
            return
        if opened.status_code != 200:
            await _relay(opened, send)
            return
        piece = _Piece(**opened.json())
        progress = Arrival()
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
            await tracked(send, scope).fail(ControlDown("The bytes that arrived are kept."))
        else:
            await _relay(closed, send)

    async def _fill(self, piece: _Piece, scope: Scope, receive: Receive, progress: Arrival) -> None:
        """Until all bytes are in the file, or the client goes away. Raises OSError, RequestTimeout."""
        loop = asyncio.get_running_loop()
        file = await loop.run_in_executor(self._bodies.writers, open_own, Path(piece.path), os.O_WRONLY)
        try:
            turn = self._turns.setdefault(piece.path, threading.Lock())
            there = Destination(file, piece.offset, piece.length, turn)
            await self._bodies.fill(there, scope, receive, progress)
        finally:
            os.close(file)

    async def _ask(self, path: str, body: dict[str, object], timeout_s: float) -> httpx.Response | None:
        try:
            return await self.control.ask(path, body, timeout_s)
        except httpx.HTTPError as error:
            log.warning("control does not answer %s: %s", path, error)
            return None


def _report(piece: _Piece, progress: Arrival, trouble: OSError | None) -> dict[str, object]:
    return {
        "ticket": piece.ticket,
        "written_bytes": progress.written_bytes,
        "trouble": trouble.strerror if trouble else None,
        "disk_full": trouble is not None and is_disk_full(trouble),
    }


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
