"""A server that stands while several tests visit it, one after the other: each only asks for what is refused."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LongLived(Generic[T]):
    """`run` is `asyncio.run` on the event loop that `here` lives in; between two runs that loop stands still."""

    here: T
    _runner: asyncio.Runner

    def run(self, visit: Coroutine[Any, Any, None]) -> None:
        self._runner.run(visit)


@contextmanager
def long_lived(opening: AbstractAsyncContextManager[T]) -> Iterator[LongLived[T]]:
    async def enter() -> T:
        return await opening.__aenter__()

    async def leave() -> None:
        await opening.__aexit__(None, None, None)

    with asyncio.Runner() as runner:
        yield LongLived(runner.run(enter()), runner)
        runner.run(leave())
