"""The layer that stops a gateway, over the real deadlines and an app whose answers end when the test says so."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.access.deadlines import Deadlines
from gateway.access.meter import Meter
from gateway.edge.drain import Drain
from gateway.http.asgi import Message, Receive, Scope, Send
from stepserve.access_settings import LimitSettings

SSE = [(b"content-type", b"text/event-stream")]


class _House:
    def __init__(self) -> None:
        self.deadlines = Deadlines(LimitSettings())
        self.drain = Drain(self._app, self.deadlines)
        self.may_end = asyncio.Event()
        self.streaming = asyncio.Event()

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            await self.deadlines.serve(self._stream, scope, receive, send, Meter(), lambda: None)
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": SSE})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        self.streaming.set()
        await self.may_end.wait()
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def ask(self, method: str, path: str) -> list[Message]:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {"type": "http.disconnect"}

        await self.drain({"type": "http", "method": method, "path": path, "headers": []}, receive, send)
        return sent


def _run(scenario: Callable[[_House], Coroutine[Any, Any, None]]) -> None:
    async def within_time() -> None:
        async with asyncio.timeout(240):
            await scenario(_House())

    asyncio.run(within_time())


def test_what_is_in_flight_ends_and_nothing_new_begins() -> None:
    async def scenario(harness: _House) -> None:
        stream = asyncio.create_task(harness.ask("POST", "/v1/completions"))
        await harness.streaming.wait()
        assert (await harness.ask("GET", "/readyz"))[0]["status"] == 200
        drain = asyncio.create_task(harness.drain.run(60))
        await asyncio.sleep(0)
        assert (await harness.ask("GET", "/readyz"))[0]["status"] == 503
        assert (await harness.ask("GET", "/livez"))[0]["status"] == 200
        refused = (await harness.ask("POST", "/v1/completions"))[0]
        assert (refused["status"], dict(refused["headers"])[b"retry-after"]) == (503, b"5")
        assert not drain.done()
        harness.may_end.set()
        await drain
        assert (await stream)[-1] == {"type": "http.response.body", "body": b"data: [DONE]\n\n"}

    _run(scenario)


def test_what_does_not_end_in_time_ends_as_an_error() -> None:
    async def scenario(harness: _House) -> None:
        stream = asyncio.create_task(harness.ask("POST", "/v1/completions"))
        await harness.streaming.wait()
        await harness.drain.run(0.01)
        last = (await stream)[-1]
        assert b"drain_timeout_s" in last["body"]
        assert last["more_body"]  # the server cuts the connection then: a stream never looks complete

    _run(scenario)


def test_with_nothing_in_flight_nobody_waits() -> None:
    async def scenario(harness: _House) -> None:
        await harness.drain.run(60)

    _run(scenario)
