"""Programs that are killed many times: forked from a process that has imported them, so that each begins at once."""

import asyncio
import multiprocessing
import os
from collections.abc import Callable, Mapping

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["control.__main__"])


class Forked:
    """`main` in a process of its own, with this environment and no other; begun when this is made."""

    def __init__(self, main: Callable[[], object], environment: Mapping[str, str]) -> None:
        self._process = CONTEXT.Process(target=_begin, args=(main, dict(environment)), daemon=True)
        self._process.start()

    def kill(self) -> None:
        self._process.kill()

    def send(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    async def gone(self) -> None:
        await asyncio.to_thread(self._process.join)


def _begin(main: Callable[[], object], environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    main()
