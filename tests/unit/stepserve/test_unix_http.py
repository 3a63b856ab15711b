"""HTTP over Unix sockets: what an event loop reports of sockets that were ready twice, and connections that end."""

import asyncio
import gc
import logging
import warnings
from pathlib import Path

import httpx
import pytest

from stepserve.unix_http import expect_late_readiness, unix_transport


def test_only_a_second_readiness_is_left_out_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        expect_late_readiness(loop)
        woken = loop.create_future()
        loop.call_soon(woken.set_result, None)
        loop.call_soon(woken.set_result, None)
        await woken
        loop.call_soon(_broken)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    with caplog.at_level(logging.INFO):
        asyncio.run(run())
    (line,) = caplog.records
    assert "_broken" in line.getMessage()


def _broken() -> None:
    raise asyncio.InvalidStateError("of something else")


@pytest.mark.parametrize("turns", range(8))
def test_a_request_that_is_cancelled_leaves_no_socket_open(tmp_path: Path, turns: int) -> None:
    """After so many turns of the event loop, where the server has closed all idle connections, as at a restart."""
    file, writers = tmp_path / "control.sock", []

    async def run() -> None:
        all_there = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            if len(writers) == 3:
                all_there.set()
            await reader.readuntil(b"\r\n\r\n")
            await all_there.wait()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

        async with (
            await asyncio.start_unix_server(serve, file) as server,
            httpx.AsyncClient(transport=unix_transport(file), base_url="http://control") as client,
        ):
            await asyncio.gather(*(client.get("/") for _ in range(3)))
            server.close()
            for writer in writers:
                writer.close()
                await writer.wait_closed()
            asking = asyncio.create_task(client.get("/"))
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        asyncio.run(run())
        gc.collect()
    assert [str(each.message) for each in seen if f"raddr={file}" in str(each.message)] == []
