"""From a model's name to the slot that answers: the active one, one that is loaded beside it, or one to be loaded."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.errors import ModelNotFound, Unserved, VersionUnavailable
from gateway.serving.gate import Gate
from gateway.serving.pool import Pool
from gateway.serving.served import Served
from gateway.serving.tickets import Ticket
from gateway.serving.weights.versions import Demand
from stepserve.contract import ACTIVE_ALIAS, LoadRequest, ModelRef

Disconnected = Callable[[], Coroutine[Any, Any, None]]


class Directory(Protocol):
    """Knows the registered models; control does."""

    async def find(self, name: str) -> LoadRequest | None:
        """The registered model of that id, its files just checked; None when there is none.

        Raises Unserved when it cannot be known, LoadFailed when its files are not what was registered.
        """
        ...

    async def names(self) -> list[str]:
        """The ids of all registered models; none while it cannot be known."""
        ...


@dataclass(slots=True)
class Router:
    """`enter` is the one way to a slot. What it returns is good until the caller's next `await`."""

    gate: Gate
    pool: Pool
    directory: Directory
    load_on_request: bool
    max_held: int
    hold_timeout_s: float = 300.0
    held: int = 0

    async def enter(self, name: str | None, disconnected: Disconnected) -> Served:
        """The slot for the model `name` (None, empty, or `active`: the active one), waiting while it is loaded.

        Raises ModelNotFound, NotLoaded, NoRoom, LoadFailed, Unserved, or what `disconnected` raises when the client
        leaves while it waits.
        """
        if name and name != ACTIVE_ALIAS:
            slot = self.pool.loaded.answering(name)
            if slot is not None:
                return slot
        try:
            return await self.gate.enter(name, disconnected)
        except ModelNotFound:
            assert name is not None, "the active model is never unknown"
            wanted = await self.directory.find(name)
            if wanted is None:
                raise
        if self.held >= self.max_held:
            raise Unserved(f"{self.held} requests wait for a model to be loaded already.", 5.0)
        self.held += 1
        try:
            return await self._loaded(name, wanted, disconnected)
        finally:
            self.held -= 1

    async def enter_version(self, name: str | None, demand: Demand, disconnected: Disconnected) -> Served:
        """As `enter`, once the model serves the version of its weights that is demanded.

        Raises VersionUnavailable when it does not within the hold, or will not any more.
        """
        gone = asyncio.ensure_future(disconnected())

        async def left() -> None:
            await asyncio.shield(gone)

        self.held += 1
        try:
            async with asyncio.timeout(self.hold_timeout_s if self.held <= self.max_held else 0.0):
                while True:
                    slot = await self.enter(name, left)
                    served = slot.version.number
                    if demand.is_met(served):
                        return slot
                    if demand.is_past(served):
                        raise VersionUnavailable(slot.model.id, str(demand), served)
                    await _first_of(self.pool.versions.changed(), gone)
        except TimeoutError:
            slot = await self.enter(name, left)
            raise VersionUnavailable(slot.model.id, str(demand), slot.version.number) from None
        finally:
            self.held -= 1
            gone.cancel()

    async def names(self) -> list[str]:
        """Every id that `enter` would find a slot for: loaded models and adapters, then what a request would load."""
        here = self.gate.slot
        names = [*here.names, ACTIVE_ALIAS] if here is not None and not here.dead else [ACTIVE_ALIAS]
        names += self.pool.loaded.names
        return [*names, *(await self.directory.names())] if self.load_on_request else names

    def beside(self, model: ModelRef) -> Served | None:
        """Where that content of a model answers beside the active one, if it does now."""
        slot = self.pool.loaded.beside(model.id)
        return None if slot is None or slot.dead or slot.model.digest != model.digest else slot

    @property
    def active(self) -> ModelRef | None:
        """The model that requests for `active` get now; None: they would wait."""
        slot = self.gate.slot
        return None if slot is None or slot.dead else slot.model

    def is_here(self, name: str) -> bool:
        """Whether that model answers on this machine without any wait."""
        return self.pool.loaded.answering(name) is not None or self._active(name) is not None

    def _active(self, name: str) -> Served | None:
        slot = self.gate.slot
        return slot.answering(name) if slot is not None and not slot.dead else None

    async def _loaded(self, name: str, wanted: LoadRequest, disconnected: Disconnected) -> Served:
        gone = asyncio.ensure_future(disconnected())
        since_s = asyncio.get_running_loop().time()
        try:
            while True:
                ticket = self.pool.ask_for(wanted, starts=self.load_on_request, since_s=since_s)
                try:
                    await _first(ticket, gone)
                    # It may have become the active one meanwhile, or be gone again.
                    slot = self.pool.loaded.answering(name) or self._active(name)
                    if slot is not None:
                        return slot
                finally:
                    ticket.close()
        finally:
            gone.cancel()


async def _first_of(event: Coroutine[Any, Any, None], gone: asyncio.Future[None]) -> None:
    """Waits for the event; raises what `gone` raises if that is earlier."""
    waiting = asyncio.ensure_future(event)
    try:
        await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
        if gone.done():
            gone.result()
    finally:
        waiting.cancel()


async def _first(ticket: Ticket, gone: asyncio.Future[None]) -> None:
    """Waits for the model; raises what `gone` raises if that is earlier."""
    await asyncio.wait((ticket.ended, gone), return_when=asyncio.FIRST_COMPLETED)
    if gone.done():
        gone.result()
    ticket.ended.result()
