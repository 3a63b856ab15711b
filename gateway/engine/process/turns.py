"""Engines start and end one at a time.

vLLM takes its settings from the environment while it starts, and measures how much memory is free: an engine that gives
memory back meanwhile makes that measurement wrong (vLLM gives up then), and one that has not given it back yet leaves
none for the next.
"""

import asyncio
from typing import Any, cast

from gateway.serving.slot import Engine, StartEngine
from stepserve.contract import ModelRef


def one_at_a_time(start_engine: StartEngine) -> StartEngine:
    """Starts engines whose `shutdown`, too, waits for its turn; it returns when their memory is free."""
    alone = asyncio.Lock()

    async def start(model: ModelRef) -> Engine:
        async with alone:
            engine = await start_engine(model)
        return cast("Engine", _InTurn(engine, alone))

    return start


class _InTurn:
    """An engine, but for its end."""

    def __init__(self, engine: Engine, alone: asyncio.Lock) -> None:
        self._engine = engine
        self._alone = alone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def shutdown(self) -> None:
        async with self._alone:
            await self._engine.shutdown()
