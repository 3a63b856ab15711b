"""Background tasks that nobody waits for: none is lost, and a crash is always in the log."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from control.errors import ServiceError

T = TypeVar("T")
log = logging.getLogger(__name__)


class Tasks:
    """Holds every running task; `close` cancels and awaits them."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not isinstance(error, ServiceError):
            log.error("%s crashed", task.get_name(), exc_info=error)


async def uncut(work: Coroutine[Any, Any, T], limit_s: float = 2.0) -> T:
    """Awaits work that may have a transaction in its hands. Cancelled meanwhile, it lets the work come to its end
    first, for `limit_s` at most: a connection that is cut off keeps its lock until it is collected.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait({task}, timeout=limit_s)
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # it has been seen: nobody waits for it any more
        raise


async def repeat(
    work: Callable[[], Awaitable[None]], name: str, every_s: float, wake: asyncio.Event | None = None
) -> None:
    """For ever, until cancelled: the work, and again `every_s` after its end or when `wake` is set.

    Nothing ends it. Trouble with the database or another service is said once for as long as it is the same; a defect
    is logged with its place each time.
    """
    wake = wake or asyncio.Event()
    trouble = ""
    while True:
        wake.clear()
        try:
            await work()
            trouble = ""
        except (ServiceError, SQLAlchemyError) as error:
            if str(error) != trouble:
                log.warning("%s: not now: %s", name, error)
            trouble = str(error)
        except Exception:
            log.exception("%s failed; tried again in %.0f s", name, every_s)
        await is_set_within(wake, every_s)


async def is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Waits for the event, but no longer than that."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
