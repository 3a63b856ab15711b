"""A deadline on an engine's start: the thread that waits for its processes cannot be stopped, but they can."""

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

from gateway.engine.process.family import Starting, kill, kill_starter
from gateway.errors import EngineStartFailed

log = logging.getLogger(__name__)

_THREAD_ENDS_WITHIN_S = 5.0

T = TypeVar("T")


async def in_time(
    work: Callable[[], T], timeout_s: float, starting: Starting, *, end: Callable[[T], None], late: str
) -> T:
    """Does `work`, which starts the engine of `starting`, in a thread. When it takes longer, or this is cancelled, the
    engine's processes are killed, which makes `work` fail; what it returns all the same is given to `end`.

    Raises EngineStartFailed, saying `late`, and what `work` raises.
    """
    loop = asyncio.get_running_loop()

    def discard(thread: asyncio.Future[T]) -> None:
        if not thread.cancelled() and thread.exception() is None:
            loop.run_in_executor(None, end, thread.result())

    thread = loop.run_in_executor(None, work)
    try:
        await asyncio.wait((thread,), timeout=timeout_s)
        if thread.done():
            return thread.result()
        log.error("%s: its processes are killed", late)
        await _end_thread(thread, starting)
    except asyncio.CancelledError:
        thread.add_done_callback(discard)
        kill(starting.family() or starting.forks(), wait_s=0.0)
        raise
    thread.add_done_callback(discard)  # at once where it has ended
    raise EngineStartFailed(late)


async def _end_thread(thread: asyncio.Future[T], starting: Starting) -> None:
    """As gently as possible; one that waits for something else than processes is left alone."""
    for suspects in (starting.family, starting.family, starting.forks):
        family = await asyncio.to_thread(suspects)
        await asyncio.to_thread(kill, family)
        await asyncio.wait((thread,), timeout=_THREAD_ENDS_WITHIN_S)
        if thread.done():
            return
    await asyncio.to_thread(kill_starter)
    await asyncio.wait((thread,), timeout=_THREAD_ENDS_WITHIN_S)
