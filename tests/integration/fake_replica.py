"""What `python -m gateway` is in a test of several gateways on one machine: fakes without engines, as programs.

They tell by files of their base directory: `share.json` has what the process computes on; while `hold` is there a
member does not join; `ended` has when it was asked to end.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from stepserve.setting_origins import load
from stepserve.settings import Settings
from stepserve.unix_http import unix_transport
from tests.integration.fake_gateway import FakeGateway
from tests.integration.fake_member import FakeMember
from tests.integration.house import until

SHARE, HOLD, ENDED = "share.json", "hold", "ended"
PROGRAM = "import runpy\nrunpy.run_module('tests.integration.fake_replica', run_name='__main__')\n"


def install(folder: Path) -> None:
    """Makes it what `python -m gateway` runs in that folder."""
    (folder / "gateway").mkdir()
    (folder / "gateway" / "__init__.py").touch()
    (folder / "gateway" / "__main__.py").write_text(PROGRAM)


async def run(settings: Settings) -> None:
    base = settings.layout.base
    settings.layout.create()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    share = {
        "pid": os.getpid(),
        "cards": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "cores": sorted(os.sched_getaffinity(0)),
    }
    (base / SHARE).write_text(json.dumps(share))
    socket = settings.fleet.control_socket
    serving = FakeGateway(settings.layout.gateway_socket).running() if socket is None else _member(settings, socket)
    async with serving:
        await stop.wait()
        (base / ENDED).write_text(str(time.monotonic()))


@asynccontextmanager
async def _member(settings: Settings, socket: Path) -> AsyncIterator[None]:
    async with httpx.AsyncClient(transport=unix_transport(socket), base_url="http://control", timeout=240) as control:

        async def may_join() -> bool:
            if (settings.layout.base / HOLD).exists():
                return False
            try:
                return (await control.get("/health")).status_code == 200
            except httpx.TransportError:
                return False

        await until(may_join, bool)
        async with FakeMember(str(settings.fleet.id), settings.port).joined(control):
            yield


if __name__ == "__main__":
    asyncio.run(run(load()))
