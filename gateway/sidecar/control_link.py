"""Hands control's routes on to the sidecar over its Unix socket; `/v1` never comes this way."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from gateway.errors import ControlDown, ControlElsewhere, RequestTooLarge
from gateway.http.asgi import ClientDisconnected, Receive, Scope, Send, until_disconnected
from gateway.http.tracked_send import tracked
from gateway.request.context import RequestContext
from stepserve.request_id import forwarded
from stepserve.unix_http import unix_transport

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 2.0
_MULTIPART_BYTES = 64 * 1024  # the fields and boundaries around a file
_JSON = {"content-type": "application/json"}
_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"host"}
)
_NOT_HANDED_ON = _HOP_BY_HOP | {b"date", b"server"}  # the gateway's own listener says both


class ControlProxy:
    """One pooled client to control. An answer is streamed through, whatever it is.

    It may take its time, but while it does, control must answer a /health within `stalled_after_s`: a control that is
    stopped or hangs is given up then, like one that is away. `elsewhere`: the URL of the fleet's control plane, on a
    gateway that has no control of its own; whatever is asked of it is refused by naming that.
    """

    def __init__(
        self,
        socket: Path,
        max_request_bytes: int,
        max_dataset_bytes: int = 0,
        max_file_bytes: int = 0,
        stalled_after_s: float = 15.0,
        elsewhere: str | None = None,
    ) -> None:
        self._elsewhere = elsewhere
        self._stalled_after_s = stalled_after_s
        self._looking: asyncio.Task[bool] | None = None
        self._max_request_bytes = max_request_bytes
        self._max_dataset_bytes = max(max_request_bytes, max_dataset_bytes)
        self._max_file_bytes = max(max_request_bytes, max_file_bytes)
        # A switch may take minutes, and an event stream never ends: only connecting is bounded here.
        self._client = httpx.AsyncClient(
            transport=unix_transport(socket),
            base_url="http://control",
            timeout=httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S),
        )

    async def is_up(self) -> bool:
        try:
            answer = await self._client.get("/health", timeout=_CONNECT_TIMEOUT_S)
        except httpx.HTTPError:
            return False
        return answer.status_code == 200

    async def get(self, path: str, timeout_s: float) -> httpx.Response:
        """The gateway's own question to control. Raises httpx.HTTPError."""
        return await self._client.get(path, timeout=timeout_s)

    async def ask(self, path: str, body: dict[str, object], timeout_s: float) -> httpx.Response:
        """A question of the gateway's own. Raises httpx.HTTPError, ControlElsewhere."""
        self._check_here()
        timeout = httpx.Timeout(timeout_s, connect=_CONNECT_TIMEOUT_S)
        return await self._unless_stalled(self._client.post(path, json=body, timeout=timeout))

    async def fetch(self, path: str, timeout_s: float) -> bytes | None:
        """What control says there; None when it does not answer as it should."""
        try:
            answer = await self._client.get(path, timeout=timeout_s)
        except httpx.HTTPError:
            return None
        return answer.content if answer.status_code == 200 else None

    async def request(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """A request for whoever asks here, body and answer being JSON. Raises ControlDown."""
        self._check_here()
        content = None if body is None else msgspec.json.encode(body)
        sent = {**_JSON, **forwarded(), **(headers or {})}
        try:
            return await self._unless_stalled(self._client.request(method, path, content=content, headers=sent))
        except httpx.HTTPError as error:
            raise ControlDown from error

    @asynccontextmanager
    async def listen(self, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """An event stream of control's, in pieces. Raises ControlDown, in the middle too."""
        self._check_here()
        try:
            asked = self._client.send(self._client.build_request("GET", path), stream=True)
            async with aclosing(await self._unless_stalled(asked)) as answer:
                yield answer.aiter_raw()
        except httpx.HTTPError as error:
            raise ControlDown from error

    async def _unless_stalled(self, asked: Coroutine[Any, Any, httpx.Response]) -> httpx.Response:
        """Raises what `asked` raises, and ReadTimeout once control answers nothing at all."""
        asking = asyncio.ensure_future(asked)
        look_s = self._stalled_after_s / 3
        taken = False
        try:
            while not (await asyncio.wait({asking}, timeout=look_s))[0]:
                lives = await self._looked(look_s) or await self._looked(look_s)
                if not lives and not asking.done():
                    raise httpx.ReadTimeout(f"no answer, not to /health either, for {self._stalled_after_s:g} s")
            taken = True
            return asking.result()
        finally:
            if not asking.done():
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
            if not taken and not asking.cancelled() and asking.exception() is None:
                await asking.result().aclose()

    async def _looked(self, timeout_s: float) -> bool:
        """As `_answers`, asked once however many wait."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._answers(timeout_s))
        return await asyncio.shield(self._looking)

    async def _answers(self, timeout_s: float) -> bool:
        try:
            await self._client.get("/health", timeout=timeout_s)
        except httpx.HTTPError:
            return False
        return True

    async def close(self) -> None:
        await self._client.aclose()

    def _check_here(self) -> None:
        """Raises ControlElsewhere."""
        if self._elsewhere is not None:
            raise ControlElsewhere(self._elsewhere)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises ControlElsewhere."""
        self._check_here()
        response = tracked(send, scope)
        headers = [(key, value) for key, value in scope["headers"] if key not in _HOP_BY_HOP]
        # As the client wrote it: a decoded path may hold what no URL can.
        url = httpx.URL(scope["raw_path"].decode("ascii")).copy_with(query=scope["query_string"])
        body = self._body(scope, receive)
        request = self._client.build_request(scope["method"], url, headers=headers, content=body)
        try:
            answer = await self._unless_stalled(self._client.send(request, stream=True))
        except RequestTooLarge as error:
            await response.fail(error)
            return
        except ClientDisconnected:
            return
        except httpx.HTTPError as error:
            log.warning("control does not answer %s %s: %s", scope["method"], scope["path"], error)
            await response.fail(ControlDown())
            return
        pump = asyncio.ensure_future(_pump(answer, response))
        gone = asyncio.ensure_future(until_disconnected(receive))  # else an event stream would outlive its reader
        try:
            await asyncio.wait((pump, gone), return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                pump.result()
        finally:
            pump.cancel()
            gone.cancel()
            await asyncio.gather(pump, gone, return_exceptions=True)
            await answer.aclose()

    def _body(self, scope: Scope, receive: Receive) -> AsyncIterator[bytes] | None:
        """The request's body as it comes in; None where the headers announce none."""
        announced = {key for key, _ in scope["headers"]}
        if not announced & {b"content-length", b"transfer-encoding"}:
            return None
        row = RequestContext.of(scope).match.row
        if row is not None and row.body == "dataset":
            return _chunks(receive, self._max_dataset_bytes, "max_dataset_bytes")
        if row is not None and row.body == "file":
            return _chunks(receive, self._max_file_bytes + _MULTIPART_BYTES, "max_file_bytes")
        return _chunks(receive, self._max_request_bytes)


async def _pump(answer: httpx.Response, send: Send) -> None:
    kept = [(key.lower(), value) for key, value in answer.headers.raw if key.lower() not in _NOT_HANDED_ON]
    await send({"type": "http.response.start", "status": answer.status_code, "headers": kept})
    async for chunk in answer.aiter_raw():
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _chunks(receive: Receive, limit_bytes: int, setting: str = "max_request_bytes") -> AsyncIterator[bytes]:
    """Raises ClientDisconnected in the middle of a body: one that only ended would pass for whole."""
    length = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        if chunk := message.get("body", b""):
            length += len(chunk)
            if length > limit_bytes:
                raise RequestTooLarge(limit_bytes, setting)
            yield chunk
        if not message.get("more_body", False):
            return
