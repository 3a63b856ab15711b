"""The gateway's private API, as control asks it."""

import asyncio
import logging
from pathlib import Path

import httpx
import pytest

from stepserve.contract import GATEWAY_BATCH_PATH, GATEWAY_STATE_PATH
from tests.integration.full_stack import FullStack, run_story


def test_a_control_that_is_killed_while_it_asks_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(there: FullStack) -> None:
        socket = str(there.settings.layout.gateway_socket)
        reader, writer = await asyncio.open_unix_connection(socket)
        writer.write(f"POST {GATEWAY_BATCH_PATH} HTTP/1.1\r\nhost: gateway\r\ncontent-length: 100\r\n\r\n{{".encode())
        await writer.drain()
        async with httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=socket), base_url="http://gateway", timeout=240
        ) as other:
            (await other.get(GATEWAY_STATE_PATH)).raise_for_status()  # so that the first request has begun
            writer.close()
            await writer.wait_closed()
            (await other.get(GATEWAY_STATE_PATH)).raise_for_status()
        assert reader.at_eof() or await reader.read() == b""

    with caplog.at_level(logging.ERROR):
        run_story(tmp_path, story)
    assert [record.getMessage() for record in caplog.records] == []
