"""Control with real pulls, to be killed: `python -m tests.integration.pull_control BASE` runs until then."""

import asyncio
import sys
from pathlib import Path

from control.app import create_app
from tests.integration.control_plane import PACE, settings_of
from tests.integration.pulls import CDN


async def main(base: Path) -> None:
    app = create_app(settings_of(base, hub_timeout_s=1, hub_hosts=[CDN]), [], pace=PACE, job_poll_s=0.3)
    async with app.router.lifespan_context(app):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
