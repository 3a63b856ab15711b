"""Little model servers on real ports that do what real ones do on bad days."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Headers = dict[str, str]
Behaviour = Callable[["Upstream", Headers, bytes, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Upstream:
    """`behave` answers every request but GET /v1/models. `seen` has the head and body of each."""

    behave: Behaviour
    models: list[str]
    url: str = ""
    seen: list[tuple[Headers, bytes]] = field(default_factory=list)
    running: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            if first.startswith("GET /v1/models "):
                await answer(writer, 200, {"data": [{"id": name} for name in self.models]})
                return
            self.seen.append((headers, body))
            self.running += 1
            try:
                await self.behave(self, headers, body, writer)
            finally:
                self.running -= 1
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client or the test is over
        finally:
            writer.close()


@asynccontextmanager
async def upstream(behave: Behaviour, *models: str) -> AsyncIterator[Upstream]:
    made = Upstream(behave, list(models))
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await made.serve(reader, writer)
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield made
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def answer(
    writer: asyncio.StreamWriter, status: int, content: object, *headers: str, kind: str = "application/json"
) -> None:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    head = [
        f"HTTP/1.1 {status} X",
        f"content-type: {kind}",
        f"content-length: {len(body)}",
        "connection: close",
        *headers,
    ]
    writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)
    await writer.drain()


async def begin_stream(writer: asyncio.StreamWriter) -> None:
    writer.write(
        b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nset-cookie: a=b\r\n\r\n"
    )
    await writer.drain()


async def event(writer: asyncio.StreamWriter, data: object) -> None:
    text = data if isinstance(data, str) else json.dumps(data)
    await chunk(writer, f"data: {text}\n\n".encode())


async def chunk(writer: asyncio.StreamWriter, body: bytes) -> None:
    writer.write(f"{len(body):x}\r\n".encode() + body + b"\r\n")
    await writer.drain()


def piece(text: str) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}}]}


async def works(there: Upstream, _: Headers, body: bytes, writer: asyncio.StreamWriter) -> None:
    """Answers with its own address, streamed when asked so."""
    asked = json.loads(body)
    if not asked.get("stream"):
        usage = {"prompt_tokens": 3, "completion_tokens": 5}
        content = {"choices": [{"message": {"content": there.url}}], "model": asked.get("model"), "usage": usage}
        await answer(writer, 200, content, "set-cookie: session=secret", "x-secret: s")
        return
    await begin_stream(writer)
    for word in ("one", "two", "three"):
        await event(writer, piece(word))
    await event(writer, "[DONE]")
    writer.write(b"0\r\n\r\n")


async def dies(there: Upstream, _: Headers, __: bytes, writer: asyncio.StreamWriter) -> None:
    """Takes the request and says nothing."""


async def never(there: Upstream, _: Headers, __: bytes, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def garbage(there: Upstream, _: Headers, __: bytes, writer: asyncio.StreamWriter) -> None:
    await answer(writer, 200, b"<html>It works!</html>", kind="text/html")


async def half_json(there: Upstream, _: Headers, __: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 200 X\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{"choices": [')
    await writer.drain()


async def no_http(there: Upstream, _: Headers, __: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x00\x01\x02 what?\r\n\r\n")


async def breaks_midway(there: Upstream, _: Headers, __: bytes, writer: asyncio.StreamWriter) -> None:
    await begin_stream(writer)
    await event(writer, piece("one"))


async def ends_early(there: Upstream, _: Headers, __: bytes, writer: asyncio.StreamWriter) -> None:
    """A stream that ends cleanly without having been finished."""
    await begin_stream(writer)
    await event(writer, piece("one"))
    writer.write(b"0\r\n\r\n")


async def garbage_midway(there: Upstream, _: Headers, __: bytes, writer: asyncio.StreamWriter) -> None:
    await begin_stream(writer)
    await event(writer, piece("one"))
    await chunk(writer, b"<html>Bad Gateway</html>\n\n")
    await event(writer, "[DONE]")
    writer.write(b"0\r\n\r\n")


async def for_ever(there: Upstream, _: Headers, __: bytes, writer: asyncio.StreamWriter) -> None:
    await begin_stream(writer)
    while True:
        await event(writer, piece("more"))
        await asyncio.sleep(0.01)


async def stalls_midway(there: Upstream, _: Headers, __: bytes, writer: asyncio.StreamWriter) -> None:
    await begin_stream(writer)
    await event(writer, piece("one"))
    await asyncio.Event().wait()


async def busy(there: Upstream, _: Headers, __: bytes, writer: asyncio.StreamWriter) -> None:
    await answer(writer, 429, {"error": {"message": "too much"}}, "retry-after: 7")


async def fails(there: Upstream, _: Headers, __: bytes, writer: asyncio.StreamWriter) -> None:
    await answer(writer, 500, {"error": {"message": "out of memory"}})


async def refuses_our_key(there: Upstream, _: Headers, __: bytes, writer: asyncio.StreamWriter) -> None:
    await answer(writer, 401, {"error": {"message": "bad key", "code": "invalid_api_key"}})


async def says_no(there: Upstream, _: Headers, __: bytes, writer: asyncio.StreamWriter) -> None:
    await answer(writer, 400, {"error": {"message": "max_tokens is too large", "type": "invalid_request_error"}})


async def redirects(there: Upstream, _: Headers, __: bytes, writer: asyncio.StreamWriter) -> None:
    await answer(writer, 302, {}, "location: http://127.0.0.1:1/")
