"""Brings control's view of the fleet to the gateway. While control is away the last one holds."""

import asyncio
import logging

import httpx
from pydantic import ValidationError

from gateway.balancing.members import Members
from gateway.sidecar.control_link import ControlProxy
from stepserve.fleet import FLEET_PATH, FleetView

log = logging.getLogger(__name__)

_TIMEOUT_S = 5.0


class ViewLink:
    """Asks every `alone_s` while this gateway is the only one, every `every_s` in a fleet, and every `soon_s` while a
    member is switched or requests wait for one, so that they wait no longer than they must.
    """

    def __init__(
        self,
        control: ControlProxy,
        members: Members,
        *,
        alone_s: float = 2.0,
        every_s: float = 0.5,
        soon_s: float = 0.05,
    ) -> None:
        self._control = control
        self.members = members
        self._alone_s, self._every_s, self._soon_s = alone_s, every_s, soon_s
        self._wanted = asyncio.Event()
        self._away = False

    def want(self) -> None:
        """Somebody waits for news."""
        self._wanted.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._wanted.clear()
            await self.look()
            try:
                async with asyncio.timeout(self._pause_s()):
                    await self._wanted.wait()
                await asyncio.sleep(self._soon_s)
            except TimeoutError:
                pass

    async def look(self) -> None:
        """One question. An answer that makes no sense is logged once, and changes nothing."""
        try:
            answer = await self._control.get(FLEET_PATH, _TIMEOUT_S)
            answer.raise_for_status()
            view = FleetView.model_validate_json(answer.content)
        except (httpx.HTTPError, ValidationError) as error:
            if not self._away:
                log.warning("the fleet's members cannot be had from control: %s", error or type(error).__name__)
            self._away = True
            return
        self._away = False
        self.members.put(view)

    def _pause_s(self) -> float:
        members = self.members
        if not members.balances:
            return self._alone_s
        moves = any(each.entry.state == "switching" for each in members.all.values())
        return self._soon_s if moves else self._every_s
