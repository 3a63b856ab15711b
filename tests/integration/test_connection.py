"""The public port's HTTP protocol on a real socket, before a small application that counts what it hears."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
import uvicorn

from gateway.http.asgi import ClientDisconnected, Receive, Scope, Send, read_body, send_json
from gateway.http.connection import MAX_HEAD_BYTES, guarded
from stepserve.access_settings import LimitSettings

REQUEST = b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
LONG = b"a" * (MAX_HEAD_BYTES + 1)


@dataclass
class Listener:
    """Says how long each body was; `left` is set when a client went away in the middle of one."""

    port: int = 0
    left: asyncio.Event = field(default_factory=asyncio.Event)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(receive, 10_000_000)
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
            async with asyncio.timeout(20):
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

    asyncio.run(scenario())


def test_a_body_longer_than_a_head_may_be_is_no_head() -> None:
    async def scenario() -> None:
        async with listening() as listener, listener.open() as (reader, writer):
            for _ in range(3):  # on one connection: each request is counted anew
                writer.write(REQUEST % 200_000 + b"x" * 200_000)
                assert b'{"bytes":200000}' in await reader.readuntil(b"}")

    asyncio.run(scenario())


def test_a_head_that_does_not_come_is_given_up() -> None:
    async def scenario() -> None:
        async with listening() as listener, listener.open() as (reader, writer):
            writer.write(b"POST /x HT")
            assert b'{"bytes":2}' in await listener.ask()
            assert await reader.read() == b""

    asyncio.run(scenario())


def test_half_a_request_and_then_the_end() -> None:
    async def scenario() -> None:
        async with listening() as listener:
            async with listener.open() as (reader, writer):
                writer.write(REQUEST % 10 + b"123")
                writer.write_eof()
                await listener.left.wait()
                assert await reader.read() == b""
            assert b'{"bytes":2}' in await listener.ask()

    asyncio.run(scenario())
