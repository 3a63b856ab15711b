"""Models that are loaded at the start, in addition to the active one."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from gateway.errors import GatewayError, LoadFailed, Unserved
from gateway.serving.pool import Pool
from gateway.serving.router import Directory
from stepserve.contract import LoadRequest

log = logging.getLogger(__name__)

_ACTIVE_COMES_WITHIN_S = 15.0  # after control answers: it then asks for the model that was active before


@dataclass(slots=True)
class Preload:
    """Each in turn, once, and never in place of another model. One that does not load ends nothing:
    the log says why, and `outcomes`, which is for people. `control_answers` returns at the next answer of control's.
    """

    models: Sequence[str]
    pool: Pool
    directory: Directory
    control_answers: Callable[[], Awaitable[object]]
    outcomes: dict[str, str] = field(default_factory=dict, init=False)

    async def run(self) -> None:
        self.outcomes = dict.fromkeys(self.models, "waiting for control")
        for name in self.models:
            wanted = await self._find(name)
            if wanted is None:
                continue
            self.outcomes[name] = "waiting for the active model"
            await self._active_is_there()
            self.outcomes[name] = "loading"
            try:
                await self.pool.load(wanted.model_copy(update={"wait": False, "evicts": False}))
            except GatewayError as error:
                self._fail(name, str(error))
            else:
                self.outcomes[name] = "loaded"

    async def _find(self, name: str) -> LoadRequest | None:
        """Waits until control answers. None: there is no such model, or its files are not what was registered."""
        while True:
            try:
                wanted = await self.directory.find(name)
            except LoadFailed as error:
                self._fail(name, str(error))
                return None
            except Unserved:
                await self.control_answers()
                continue
            if wanted is None:
                self._fail(name, f"no model is registered as {name!r}: see GET /models")
            return wanted

    async def _active_is_there(self) -> None:
        """Its engine starts first; where none becomes active, nobody waits for it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ACTIVE_COMES_WITHIN_S):
                await self.pool.until(lambda: self.pool.serving is not None)
        await self.pool.until(lambda: self.pool.switching_to is None)

    def _fail(self, name: str, reason: str) -> None:
        self.outcomes[name] = reason
        log.error("preload: %s is not loaded: %s", name, reason)
