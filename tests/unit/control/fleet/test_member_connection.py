"""The connection on which control waits for a member, as the kernel has it."""

import asyncio
import ssl
import sys
from pathlib import Path

import pytest

from control.gateway_client import GatewayClient

_KEEPALIVE_TIMER = "02"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/net/tcp")
def test_a_connection_on_which_nothing_comes_is_kept_alive() -> None:
    asked = asyncio.Event()
    port = 0

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal port
        port = writer.get_extra_info("peername")[1]
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(never, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            client = GatewayClient.of_member(url, "t" * 40, ssl.create_default_context(), look_every_s=1)
            asking = asyncio.create_task(client.state())
            await asked.wait()
            lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            timers = {line[5].partition(":")[0] for line in lines if line[1].endswith(f":{port:04X}")}
            asking.cancel()
            await asyncio.wait({asking})
            await client.close()
        assert timers == {_KEEPALIVE_TIMER}

    asyncio.run(run())
