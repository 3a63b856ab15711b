"""push_checkpoint: a folder here becomes a model there, and only what the server lacks goes over the wire."""

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tenacity import Retrying

from stepserve.client.blocking import BlockingClient
from stepserve.client.checkpoint import Chunk, LocalFile, digest_of, look
from stepserve.client.errors import Conflict, Invalid, NotFound, Unavailable, Unreachable
from stepserve.client.file_sender import FileSender
from stepserve.client.results import Registration, Result
from stepserve.client.wire import Call, retry_rules

CONNECTIONS = 3
PIECE_BYTES = 64 * 1024 * 1024
_DECLARE_TIMEOUT_S = 3600.0  # the server may copy what it has of a large file
_PIECE_TIMEOUT_S = 600.0


class Declared(Result):
    missing: list[tuple[int, int]]
    copied_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Pushed:
    """How a push went. `sent_bytes` went over the wire as content; `digest` was computed here and found there.

    What the server quantises when it loads it, adapts or gives a chat template has another digest there, in
    `registration`.
    """

    registration: Registration
    digest: str
    total_bytes: int
    sent_bytes: int
    seconds: float


@dataclass(slots=True)
class Meter:
    """Counts bytes of several threads; `on_progress` gets (bytes that are there, bytes in all)."""

    total_bytes: int
    on_progress: Callable[[int, int], None] | None
    there_bytes: int = 0
    sent_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, count: int, *, sent: bool) -> None:
        with self._lock:
            self.there_bytes += count
            self.sent_bytes += count if sent else 0
            if self.on_progress is not None:
                self.on_progress(self.there_bytes, self.total_bytes)


def push_checkpoint(
    path: str | os.PathLike[str],
    id: str,
    *,
    client: BlockingClient | None = None,
    source: str | None = None,
    tags: str | Sequence[str] = (),
    step: int | None = None,
    probe: Mapping[str, Any] | None = None,
    activate: bool = False,
    replace: bool = False,
    base_model: str | None = None,
    chat_template: str | None = None,
    connections: int = CONNECTIONS,
    retry_s: float = 120.0,
    resume_key: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    **more: Any,
) -> Pushed:
    """Uploads the checkpoint in `path` and registers it as `id`. Blocks until the server has proven and registered it.

    Chunks that the server has already, of whatever model, are not sent. A server that goes away is waited for
    `retry_s`; after that, or after a crash here, the same call goes on where it stopped. What is the same is told by
    this host's name and `resume_key` (default: the folder). `base_model`: what an adapter is for, by its id there.
    `chat_template`: as in `register_model`, to which `more` goes too.

    Raises BadCheckpoint, CheckpointChanged (push again when it is complete), Conflict (the id has other content and
    `replace` is not set, or somebody else pushes it), and every other StepserveError.
    """
    folder = Path(path).resolve()
    started_s = time.monotonic()
    own = client is None
    there = client or BlockingClient()
    try:
        files = look(folder)
        push = _Push(there, resume_key or str(folder), id, files, connections, retry_s, on_progress)
        digest = push.send_all()
        registration = there.register_model(
            id,
            source or socket.gethostname(),
            tags,
            step=step,
            probe=probe,
            activate=activate,
            replace=replace,
            base_model=base_model,
            chat_template=chat_template,
            **more,
        )
        if registration.digest != digest and registration.digest_is_of_files:
            raise Conflict(
                409, f"the server registered {registration.digest} as {id}, and what was pushed is {digest}: it changed"
            )
    finally:
        if own:
            there.close()
    meter = push.meter
    return Pushed(registration, digest, meter.total_bytes, meter.sent_bytes, time.monotonic() - started_s)


class _Push:
    def __init__(
        self,
        client: BlockingClient,
        resume_key: str,
        model_id: str,
        files: Sequence[LocalFile],
        connections: int,
        retry_s: float,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self._client = client
        self._route = f"/models/{quote(model_id, safe='')}/files"
        self._model_id = model_id
        self._files = files
        self._connections = connections
        self._retry_s = retry_s
        # The same for every try from here, so that a try goes on with what an earlier one has sent.
        self._name = f"{socket.gethostname()}:{hashlib.sha256(os.fsencode(resume_key)).hexdigest()[:16]}"
        self._stop = threading.Event()
        self._local = threading.local()
        self._senders: list[FileSender] = []
        self.meter = Meter(sum(file.size_bytes for file in files), on_progress)

    def send_all(self) -> str:
        """The digest of what the server has now. Files are hashed, declared and sent beside each other."""
        hashed: list[tuple[LocalFile, list[Chunk]]] = []
        sizes: list[dict[str, Any]] = [{"name": file.name, "size_bytes": file.size_bytes} for file in self._files]
        readers = ThreadPoolExecutor(2, thread_name_prefix="push-hash")
        senders = ThreadPoolExecutor(self._connections, thread_name_prefix="push-send")
        try:
            hashing = [(file, readers.submit(file.hash)) for file in self._files]
            if self._is_registered(hashing):
                return digest_of([(file, future.result()) for file, future in hashing])
            self._begin(sizes)
            sending: list[Future[None]] = []
            for file, future in hashing:
                chunks = future.result()
                hashed.append((file, chunks))
                sending += [senders.submit(self._send, file, chunks, *piece) for piece in self._pieces(file, chunks)]
            for sent in as_completed(sending):
                sent.result()
            for file in self._files:
                file.check_still()
            return digest_of(hashed)
        except NotFound:
            # Another push of the same content was quicker, and its upload has become the model.
            if self._is_registered(hashing):
                return digest_of([(file, future.result()) for file, future in hashing])
            raise
        finally:
            self._stop.set()
            readers.shutdown(wait=True, cancel_futures=True)
            senders.shutdown(wait=True, cancel_futures=True)
            for sender in self._senders:
                sender.close()

    def _is_registered(self, hashing: Sequence[tuple[LocalFile, Future[list[Chunk]]]]) -> bool:
        """A push again of what is there; only an id that is known there is worth the wait for all hashes."""
        known = {model.id: model.digest for model in self._client.list_models()}
        if self._model_id not in known:
            return False
        digest = digest_of([(file, future.result()) for file, future in hashing])
        return known[self._model_id] == digest

    def _begin(self, sizes: list[dict[str, Any]]) -> None:
        body = {"upload": self._name, "files": sizes}
        self._ask(Call("POST", self._route, lambda content: content, body=body, timeout_s=_DECLARE_TIMEOUT_S))

    def _pieces(self, file: LocalFile, chunks: Sequence[Chunk]) -> Iterator[tuple[int, int]]:
        """What of the file is to be sent, in pieces that end where a chunk ends if that can be."""
        missing = self._declare(file, chunks)
        self.meter.add(file.size_bytes - sum(end - begin for begin, end in missing), sent=False)
        ends = [chunk.end for chunk in chunks]
        for begin, end in missing:
            position = begin
            for stop in [stop for stop in ends if begin < stop < end] + [end]:
                if stop - position >= PIECE_BYTES or stop == end:
                    yield position, stop
                    position = stop

    def _declare(self, file: LocalFile, chunks: Sequence[Chunk]) -> list[tuple[int, int]]:
        told = [{"size_bytes": chunk.end - chunk.begin, "sha256": chunk.sha256} for chunk in chunks]
        body = {"upload": self._name, "chunks": told}
        route = f"{self._route}/{quote(file.name)}"
        declared: Declared = self._ask(
            Call("POST", route, Declared.model_validate, body=body, timeout_s=_DECLARE_TIMEOUT_S)
        )
        return declared.missing

    def _send(self, file: LocalFile, chunks: Sequence[Chunk], begin: int, end: int) -> None:
        """One piece; what of it has arrived before a failure is not sent again."""
        left = [(begin, end)]
        for attempt in Retrying(**retry_rules(repeatable=True, retry_s=self._retry_s)):
            with attempt:
                try:
                    for part in left:
                        self._put(file, *part)
                except (Unreachable, Unavailable, Conflict, Invalid) as error:
                    if self._stop.is_set() or isinstance(error, Invalid):
                        file.check_still()
                        raise
                    left = self._still_missing(file, chunks, begin, end)
                    if left:
                        raise Unavailable(503, str(error), None) from error
                return

    def _still_missing(self, file: LocalFile, chunks: Sequence[Chunk], begin: int, end: int) -> list[tuple[int, int]]:
        """Asks anew what the server lacks of the piece, once it answers again."""
        try:
            missing = self._declare(file, chunks)
        except (Unreachable, Unavailable):
            return [(begin, end)]
        return [(max(begin, b), min(end, e)) for b, e in missing if b < end and begin < e]

    def _put(self, file: LocalFile, begin: int, end: int) -> None:
        headers = {
            "content-length": str(end - begin),
            "content-range": f"bytes {begin}-{end - 1}/{file.size_bytes}",
            "content-type": "application/octet-stream",
            "x-upload": self._name,
        }
        self._sender().put(f"{self._route}/{quote(file.name)}", file.path, begin, end, headers, self._stop.is_set)
        self.meter.add(end - begin, sent=True)

    def _sender(self) -> FileSender:
        """This thread's own."""
        if not hasattr(self._local, "sender"):
            self._local.sender = self._client.sender(_PIECE_TIMEOUT_S)
            self._senders.append(self._local.sender)
        sender: FileSender = self._local.sender
        return sender

    def _ask(self, call: Call[Any]) -> Any:
        for attempt in Retrying(**retry_rules(repeatable=True, retry_s=self._retry_s)):
            with attempt:
                return self._client.send(call)
        raise AssertionError("tenacity raises what the last attempt raised")
