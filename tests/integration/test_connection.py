"""The public port's HTTP protocol on a real socket, on the loop that the gateway has, before a small application
that counts what it hears.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import uvicorn
import uvloop

from gateway.http.asgi import ClientDisconnected, Receive, Scope, Send, read_body, send_json, unless_disconnected
from gateway.http.connection import MAX_HEAD_BYTES, guarded
from stepserve.access_settings import LimitSettings

REQUEST = b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
SLOW = REQUEST.replace(b"/x", b"/slow")
LONG = b"a" * (MAX_HEAD_BYTES + 1)


@dataclass
class Listener:
    """Says how long each body was; `left` is set when a client went away in the middle of one, or of an answer.

    Answers on /slow come when `ready` is set.
    """

    port: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(receive, 10_000_000)
            if scope["path"] == "/slow":
                self.asked.set()
                await unless_disconnected(self.ready.wait(), receive)
        except ClientDisconnected:
            self.left.set()
            return
        await send_json(send, 200, {"bytes": len(body)})

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def ask(self) -> bytes:
        """What a client that behaves gets meanwhile."""
        async with self.open() as (reader, writer):
            writer.write(REQUEST % 2 + b"{}")
            return await reader.readuntil(b"}")


@contextlib.asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    listener = Listener()
    with socket.socket() as open_socket:
        open_socket.bind(("127.0.0.1", 0))
        listener.port = open_socket.getsockname()[1]
        http = guarded(LimitSettings(head_timeout_s=0.3))
        config = uvicorn.Config(listener.app, interface="asgi3", http=http, lifespan="off", log_config=None, ws="none")
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[open_socket]))
        while not server.started:
            await asyncio.sleep(0)
        try:
            async with asyncio.timeout(240):
                yield listener
        finally:
            server.should_exit = server.force_exit = True
            await task


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /x HTTP/1.1\r\nhost: x\r\nlong: " + LONG,
        b"GET /x HTTP/1.1\r\n" + b"".join(b"h%d: x\r\n" % number for number in range(9000)),
        b"GET /" + LONG,
        b"GET /x HTTP/1.1\r\nhost: x\r\nlong: " + LONG + b"\r\n\r\n",
        b"POST /x HTTP/1.1\r\nlong: " + LONG + b"\r\ncontent-length: 3\r\n\r\nabc",
    ],
    ids=["one header", "many headers", "the path", "whole", "whole with a body"],
)
def test_a_head_that_is_too_long_is_refused(sent: bytes) -> None:
    async def scenario() -> None:
        async with listening() as listener:
            async with listener.open() as (reader, writer):
                writer.write(sent)
                answer = await reader.read()
                assert answer.startswith(b"HTTP/1.1 431 ")
                assert answer.count(b"HTTP/1.1") == 1
            assert b'{"bytes":2}' in await listener.ask()

    uvloop.run(scenario())


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_a_client_that_closes_its_half_is_answered(version: bytes) -> None:
    async def scenario() -> None:
        async with listening() as listener, listener.open() as (reader, writer):
            writer.write((SLOW % 3).replace(b"HTTP/1.1", b"HTTP/" + version) + b"abc")
            writer.write_eof()
            for _ in range(2):  # by then the end of its half has been seen
                await listener.ask()
            listener.ready.set()
            answer = await reader.read()
            interim, found, final = answer.rpartition(b"HTTP/1.1 200 OK")
            assert found
            assert interim == (b"HTTP/1.1 100 Continue\r\n\r\n" if version == b"1.1" else b"")
            assert final.endswith(b'{"bytes":3}')

    uvloop.run(scenario())


def test_a_client_that_leaves_is_not_worked_for() -> None:
    async def scenario() -> None:
        async with listening() as listener:
            async with listener.open() as (_, writer):
                writer.write(SLOW % 3 + b"abc")
                await listener.asked.wait()
            await listener.left.wait()

    uvloop.run(scenario())


def test_requests_in_a_row_before_a_closed_half_are_all_answered() -> None:
    async def scenario() -> None:
        async with listening() as listener, listener.open() as (reader, writer):
            writer.write(b"".join(REQUEST % length + b"x" * length for length in (1, 2, 3)))
            writer.write_eof()
            answer = await reader.read()
            assert [b'{"bytes":%d}' % length in answer for length in (1, 2, 3)] == [True] * 3

    uvloop.run(scenario())


def test_half_a_request_before_a_closed_half_is_not_waited_for() -> None:
    async def scenario() -> None:
        async with listening() as listener, listener.open() as (reader, writer):
            writer.write(REQUEST % 3 + b"a")
            writer.write_eof()
            assert await reader.read() == b""

    uvloop.run(scenario())


def test_a_body_longer_than_a_head_may_be_is_no_head() -> None:
    async def scenario() -> None:
        async with listening() as listener, listener.open() as (reader, writer):
            for _ in range(3):  # on one connection: each request is counted anew
                writer.write(REQUEST % 200_000 + b"x" * 200_000)
                assert b'{"bytes":200000}' in await reader.readuntil(b"}")

    uvloop.run(scenario())


def test_a_head_that_does_not_come_is_given_up() -> None:
    async def scenario() -> None:
        async with listening() as listener, listener.open() as (reader, writer):
            writer.write(b"POST /x HT")
            assert b'{"bytes":2}' in await listener.ask()
            assert await reader.read() == b""

    uvloop.run(scenario())


def test_half_a_request_and_then_the_end() -> None:
    async def scenario() -> None:
        async with listening() as listener:
            async with listener.open() as (reader, writer):
                writer.write(REQUEST % 10 + b"123")
                writer.write_eof()
                await listener.left.wait()
                assert await reader.read() == b""
            assert b'{"bytes":2}' in await listener.ask()

    uvloop.run(scenario())
