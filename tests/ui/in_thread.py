"""Something asynchronous that runs in a thread of its own while a test blocks: pages wait for what they ask."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

_GUARD_S = 120.0


@dataclass(frozen=True, slots=True)
class Running(Generic[T]):
    """`it` belongs to the thread's loop: `do` runs there what uses it."""

    it: T
    loop: asyncio.AbstractEventLoop

    def do(self, work: Coroutine[Any, Any, R]) -> R:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(_GUARD_S)


@contextmanager
def in_thread(name: str, make: Callable[[], AbstractAsyncContextManager[T]]) -> Iterator[Running[T]]:
    """From the moment that it is there to its end. Raises what either of them raises."""
    started: list[T] = []
    ready, ends = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    trouble: list[BaseException] = []

    async def live() -> None:
        async with make() as running:
            started.append(running)
            ready.set()
            await ends.wait()

    def run() -> None:
        try:
            loop.run_until_complete(live())
        except BaseException as error:  # noqa: BLE001 - told by the thread that waits
            trouble.append(error)
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=run, name=name)
    thread.start()
    ready.wait(_GUARD_S)
    try:
        assert not trouble, trouble
        yield Running(started[0], loop)
    finally:
        if started and not trouble:
            loop.call_soon_threadsafe(ends.set)
        thread.join(_GUARD_S)
    assert not trouble, trouble
