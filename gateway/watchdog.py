"""Finds engines that hang: a core that is stopped or stuck looks alive to vLLM, and its clients wait for ever."""

import asyncio
import logging
from dataclasses import dataclass, field

from gateway.errors import GatewayError
from gateway.slot import Slot

log = logging.getLogger(__name__)

_EVERY_S = 10.0
_DEADLINE_S = 30.0


@dataclass(slots=True)
class Watchdog:
    """Asks engines for one token now and then, before all other work; a slot that gives none in time is dead."""

    every_s: float = _EVERY_S
    deadline_s: float = _DEADLINE_S
    _watches: dict[Slot, asyncio.Task[None]] = field(default_factory=dict, init=False)

    def look_at(self, *slots: Slot) -> None:
        """Watches these slots from now on, and no other."""
        for slot in self._watches.keys() - set(slots):
            self._watches.pop(slot).cancel()
        for slot in slots:
            if slot not in self._watches:
                self._watches[slot] = asyncio.create_task(self._watch(slot), name=f"watchdog of {slot.model.id}")

    def stop(self) -> None:
        self.look_at()

    async def _watch(self, slot: Slot) -> None:
        while not slot.dead:
            await asyncio.sleep(self.every_s)
            try:
                async with asyncio.timeout(self.deadline_s):
                    await slot.engine.alive()
            except TimeoutError:
                log.error(
                    "the engine of %s gave no token in %.0f s; it is taken for dead", slot.model.id, self.deadline_s
                )
                slot.phase = "dead"
            except GatewayError:
                return  # it died, which the pool sees by itself
