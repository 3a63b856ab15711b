"""A small server that misbehaves as it is told: real sockets, raw bytes."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

Speak = Callable[[str, asyncio.StreamWriter], Awaitable[None]]  # of a request's whole head
Answer = Callable[[str, int], bytes | None]  # of "GET /path" and the request's number; None: never an answer


def reply(body: bytes, status: str = "200 OK", kind: str = "application/json", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-type: {kind}", f"content-length: {len(body)}", "connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


HTML = reply(b"<html><body>Please log in</body></html>", kind="text/html")
BAD_GATEWAY = reply(b"<html>502 Bad Gateway</html>", "502 Bad Gateway", "text/html")


@contextmanager
def raw_server(answer: Answer) -> Iterator[tuple[str, list[str]]]:
    """Its URL, and the requests so far. Runs in a thread of its own."""
    seen: list[str] = []
    ready = threading.Event()
    stop: list[Callable[[], object]] = []
    port: list[int] = []

    async def serve() -> None:
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(over.set))
        writers: list[asyncio.StreamWriter] = []

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            head = await reader.readuntil(b"\r\n\r\n")
            seen.append(" ".join(head.decode().split(" ")[:2]))
            said = answer(seen[-1], len(seen))
            if said is not None:
                writer.write(said)
                await writer.drain()
                writer.close()

        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        port.append(server.sockets[0].getsockname()[1])
        ready.set()
        await over.wait()
        server.close()
        for writer in writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(240)
    try:
        yield f"http://127.0.0.1:{port[0]}", seen
    finally:
        stop[0]()
        thread.join()


@asynccontextmanager
async def speaking(speak: Speak) -> AsyncIterator[str]:
    """A server that answers each request by what `speak` writes, for as long as anybody listens; its URL."""
    talks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            await speak(head.decode(), writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in talks:
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)
