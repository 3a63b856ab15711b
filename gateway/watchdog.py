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
    """Asks the engine for one token now and then, before all other work; a slot that gives none in time is dead."""

    every_s: float = _EVERY_S
    deadline_s: float = _DEADLINE_S
    _slot: Slot | None = field(default=None, init=False)
    _task: asyncio.Task[None] | None = field(default=None, init=False)

    def look_at(self, slot: Slot | None) -> None:
        """Watches this slot from now on, and no other."""
        if slot is self._slot:
            return
        self.stop()
        self._slot = slot
        if slot is not None:
            self._task = asyncio.create_task(self._watch(slot), name=f"watchdog of {slot.model.id}")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._slot = self._task = None

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
