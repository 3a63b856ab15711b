"""Control with real evals, to be killed: `python -m tests.integration.eval_control BASE` says when it works."""

import asyncio
import sys
from pathlib import Path

from control.app import create_app
from evals.kind import EvalKind
from tests.integration.house import PACE, settings_of

UP = "up"


async def main(base: Path) -> None:
    settings = settings_of(base, max_concurrent_jobs=2, batch_items=4, batch_window_items=16)
    app = create_app(settings, [EvalKind()], pace=PACE, job_poll_s=0.1)
    async with app.router.lifespan_context(app):
        print(UP, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
