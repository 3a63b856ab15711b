"""Control with real data generation, to be killed."""

import asyncio
from pathlib import Path

from control.app import create_app
from datagen.kind import DataGenKind
from tests.integration.control_plane import PACE, settings_of


def serve(base: Path) -> None:
    asyncio.run(_serve(base))


async def _serve(base: Path) -> None:
    settings = settings_of(base, max_concurrent_jobs=2, batch_items=4, batch_window_items=16)
    app = create_app(settings, [DataGenKind(settings.layout)], pace=PACE, job_poll_s=0.1)
    async with app.router.lifespan_context(app):
        await asyncio.Event().wait()
