"""A control process to be killed: `python -m tests.integration.killed_control BASE` says `started` once a job runs."""

import asyncio
import sys
from pathlib import Path

from tests.integration.control_plane import control, settings_of
from tests.integration.fake_gateway import FakeGateway


async def main(base: Path) -> None:
    gateway = FakeGateway(settings_of(base).layout.gateway_socket)
    async with control(base, gateway) as here:
        here.kind.may_go.clear()
        await here.kind.started.wait()
        sys.stdout.write("started\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
