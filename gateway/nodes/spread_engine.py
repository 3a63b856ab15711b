"""An engine whose other ranks are on nodes: it is dead as soon as one of them is, and ends with all of them."""

from pathlib import Path
from typing import Any, Protocol

from gateway.errors import EngineReloadFailed, EngineStartFailed
from gateway.nodes.node import Order
from gateway.serving.adapter import Front
from gateway.serving.slot import Engine
from stepserve.contract import ModelRef, Reference


class Head(Protocol):
    async def differing(self, order: Order, path: str) -> str | None: ...

    async def release(self, order: Order) -> None: ...


class SpreadEngine:
    """An engine, and the order that its other nodes carry out."""

    def __init__(self, engine: Engine, order: Order, head: Head) -> None:
        self._engine = engine
        self._order = order
        self._head = head

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    @property
    def dead(self) -> bool:
        return self._order.reason is not None or self._engine.dead

    @property
    def other_nodes(self) -> int:
        return len(self._order.nodes)

    async def stage(self, model: ModelRef, reference: Reference | None) -> str | None:
        """Compares the files beforehand, while requests are answered: `reload` does not read them again for that."""
        reason = await self._head.differing(self._order, model.path)
        return reason if reason is not None else await self._engine.stage(model, reference)

    async def reload(self, model: ModelRef, weights: Path | None = None) -> None:
        """Raises EngineReloadFailed, also for weights that lie on this machine alone."""
        if weights is not None:
            raise EngineReloadFailed(f"`{model.id}` is spread over nodes, and pushed weights are on the head alone")
        if (reason := await self._head.differing(self._order, model.path)) is not None:
            raise EngineReloadFailed(f"`{model.id}` cannot be loaded in place: {reason}")
        await self._engine.reload(model)

    async def attach(self, model: ModelRef) -> Front:
        """Raises EngineStartFailed."""
        if (reason := await self._head.differing(self._order, model.path)) is not None:
            raise EngineStartFailed(f"the adapter `{model.id}` cannot be loaded: {reason}")
        return await self._engine.attach(model)

    async def shutdown(self) -> None:
        try:
            await self._engine.shutdown()
        finally:
            await self._head.release(self._order)
