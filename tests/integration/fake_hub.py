"""A Hugging Face hub on loopback, as far as pulling goes, that misbehaves as it is told to."""

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from tests.integration.serving import serving

CHUNK_BYTES = 64 * 1024


@dataclass(slots=True)
class Trick:
    """What goes wrong when a file is asked for, the next `times` times, after so many bytes of an answer."""

    kind: str  # "stall", "break", "short"
    after_bytes: int
    times: int = 1_000_000


@dataclass(slots=True)
class Repository:
    """`listed` overrides sizes in the listing; `served` overrides what is sent. Files end in .safetensors are LFS."""

    files: dict[str, bytes]
    commit: str = "c" * 40
    token: str | None = None
    gated: bool = False
    listed: dict[str, int] = field(default_factory=dict)
    served: dict[str, bytes] = field(default_factory=dict)
    tricks: dict[str, Trick] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    path: str
    range_: str | None
    authorization: str | None
    sent: list[int]


class FakeHub:
    """`at_once` large files are being sent, or wait until they `may_send`."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.asked: list[Asked] = []
        self.port = 0
        self.pause_s = 0.0
        self.at_once = 0
        self.may_send = asyncio.Event()
        self.may_send.set()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, name: str, folder: Path) -> Repository:
        """A repository with the files of a folder."""
        files = {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}
        self.repositories[name] = Repository(files)
        return self.repositories[name]

    def fetched(self, name: str) -> list[Asked]:
        """The requests for the bytes of a large file."""
        return [asked for asked in self.asked if asked.path.startswith("/cdn/") and asked.path.endswith(name)]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """A second time it is the same hub, at the same place, after it was away."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self.port = listener.getsockname()[1]
        async with serving(self._app(), listener, at_once=True, lifespan="off", loop="asyncio"):
            yield

    def _app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/api/models/{name:path}/revision/{revision}")
        async def listing(name: str, revision: str, request: Request) -> Response:
            self._note(request)
            repository = self.repositories.get(name)
            refusal = _refusal(repository, request)
            if refusal is not None or repository is None:
                return refusal or Response(status_code=404)
            if revision not in ("main", repository.commit):
                return Response(status_code=404, headers={"X-Error-Code": "RevisionNotFound"})
            siblings = [_sibling(file, data, repository.listed) for file, data in repository.files.items()]
            return JSONResponse({"id": name, "sha": repository.commit, "siblings": siblings, "private": False})

        @app.get("/{name:path}/resolve/{revision}/{file:path}", response_model=None)
        async def resolve(name: str, revision: str, file: str, request: Request) -> Response:
            if name.startswith("cdn/"):
                asked = self._note(request)
                return await self._send(self.repositories[name.removeprefix("cdn/")], file, request, asked)
            repository = self.repositories.get(name)
            refusal = _refusal(repository, request)
            if refusal is not None or repository is None:
                return refusal or Response(status_code=404)
            if file not in repository.files or revision != repository.commit:
                return Response(status_code=404, headers={"X-Error-Code": "EntryNotFound"})
            if file.endswith(".safetensors"):  # another origin, as a CDN is
                return RedirectResponse(f"http://localhost:{self.port}/cdn/{name}/resolve/{revision}/{file}", 302)
            return await self._send(repository, file, request, self._note(request))

        return app

    def _note(self, request: Request) -> Asked:
        headers = request.headers
        self.asked.append(Asked(request.url.path, headers.get("range"), headers.get("authorization"), []))
        return self.asked[-1]

    async def _send(self, repository: Repository, file: str, request: Request, asked: Asked) -> Response:
        data = repository.served.get(file, repository.files[file])
        begin = int(asked.range_.removeprefix("bytes=").rstrip("-")) if asked.range_ else 0
        if begin and begin >= len(data):
            return Response(status_code=416)
        headers = {"Content-Length": str(len(data) - begin), "Content-Type": "application/octet-stream"}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        trick = repository.tricks.get(file)
        if trick is not None and trick.times > 0:
            trick.times -= 1
        else:
            trick = None
        if trick is not None and trick.kind == "short":
            headers["Content-Length"] = str(min(trick.after_bytes, len(data) - begin))
        body = self._body(data[begin:], trick, asked)
        return StreamingResponse(body, 206 if begin else 200, headers)

    async def _body(self, data: bytes, trick: Trick | None, asked: Asked) -> AsyncIterator[bytes]:
        large = asked.path.startswith("/cdn/")
        self.at_once += large
        try:
            if large:
                await self.may_send.wait()
            for position in range(0, len(data), CHUNK_BYTES):
                if trick is not None and position >= trick.after_bytes:
                    if trick.kind == "stall":
                        await asyncio.Event().wait()
                    return  # fewer bytes than the header says: the connection is cut
                piece = data[position : position + CHUNK_BYTES]
                if trick is not None:
                    piece = piece[: trick.after_bytes - position]
                asked.sent.append(len(piece))
                yield piece
                await asyncio.sleep(self.pause_s)
        finally:
            self.at_once -= large


def _sibling(file: str, data: bytes, listed: dict[str, int]) -> dict[str, object]:
    size = listed.get(file, len(data))
    sibling: dict[str, object] = {"rfilename": file, "size": size}
    if file.endswith(".safetensors"):
        return sibling | {"lfs": {"size": size, "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 130}}
    return sibling | {"blobId": hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()}


def _refusal(repository: Repository | None, request: Request) -> Response | None:
    """A private repository cannot be told from one that is not there, as on the real hub."""
    authorization = request.headers.get("authorization")
    if repository is None or (repository.token and not repository.gated and authorization != _bearer(repository)):
        return Response(status_code=404 if authorization else 401, headers={"X-Error-Code": "RepoNotFound"})
    if repository.gated and authorization != _bearer(repository):
        return Response(status_code=403, headers={"X-Error-Code": "GatedRepo"})
    return None


def _bearer(repository: Repository) -> str:
    return f"Bearer {repository.token}"
