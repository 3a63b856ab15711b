"""Control with real evals, to be killed."""

import asyncio
from multiprocessing.synchronize import Event
from pathlib import Path

from control.app import create_app
from evals.kind import EvalKind
from tests.integration.control_plane import PACE, settings_of


def serve(base: Path, is_up: Event) -> None:
    """Says when it works."""
    asyncio.run(_serve(base, is_up))


async def _serve(base: Path, is_up: Event) -> None:
    settings = settings_of(base, max_concurrent_jobs=2, batch_items=4, batch_window_items=16)
    app = create_app(settings, [EvalKind()], pace=PACE, job_poll_s=0.1)
    async with app.router.lifespan_context(app):
        is_up.set()
        await asyncio.Event().wait()
