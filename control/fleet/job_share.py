"""The share of a fleet that jobs may have: members that serve a job's model for as long as such jobs are there.

They are not asked by clients meanwhile. Who is set apart is kept in memory alone: after a restart of control they are
brought to what is committed, and set apart again for the job that still waits.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable

from control.errors import NoRoom, ServiceError
from control.fleet.bringing import Bringer, Wanted
from control.fleet.job_loading import FleetLoading
from control.fleet.members import Member, Members
from control.tasks import repeat
from stepserve.contract import ActivateRequest

log = logging.getLogger(__name__)


class JobShare:
    """Implements control.jobs.side_loader.ModelLoader.

    `share`: of all gateways, control's own counted in though it is never set apart; 0: none. `is_wanted` says whether
    jobs for a model wait or run, `is_switching` whether a rollout has the members.
    """

    def __init__(
        self,
        loading: FleetLoading,
        bringer: Bringer,
        members: Members,
        share: float,
        is_wanted: Callable[[str], Awaitable[bool]],
        is_switching: Callable[[], bool],
        every_s: float,
    ) -> None:
        self._loading = loading
        self._bringer = bringer
        self._members = members
        self._share = share
        self._is_wanted = is_wanted
        self._is_switching = is_switching
        self._every_s = every_s

    async def load_beside(self, model_id: str) -> None:
        """Returns when a gateway has it beside the active one, or else a member in its place. Raises NoRoom, and as
        `Bringer.bring`.
        """
        if any(member.apart.model == model_id for member in self._members.all() if member.apart is not None):
            return
        try:
            await self._loading.load_beside(model_id)
        except NoRoom:
            if not self._share:
                raise
            await self._set_apart(model_id)

    async def run(self) -> None:
        """Gives members back whose jobs are over. For ever, until cancelled."""
        await repeat(self.look, "the share of the fleet for jobs", self._every_s)

    async def look(self) -> None:
        for model_id in {member.apart.model for member in self._members.all() if member.apart is not None}:
            if not await self._is_wanted(model_id):
                for member in self._members.all():
                    if member.apart is not None and member.apart.model == model_id:
                        log.info("%s is given back by the jobs of %s", member.id, model_id)
                        self._members.set_apart(member, None)

    async def _set_apart(self, model_id: str) -> None:
        """Raises NoRoom."""
        request = await self._loading.request_for(model_id)
        wanted = Wanted(
            ActivateRequest(model=request.model, reference=request.reference, base_reference=request.base_reference)
        )
        chosen = self._chosen()
        for member in chosen:
            log.info("%s is set apart for jobs of %s", member.id, model_id)
            self._members.set_apart(member, wanted.committed)
        ends = await asyncio.gather(*(self._bringer.bring(member, wanted) for member in chosen), return_exceptions=True)
        failures = {member.id: end for member, end in zip(chosen, ends, strict=True) if end is not None}
        for member in chosen:
            if member.id in failures:
                self._members.set_apart(member, None)
        for failure in failures.values():
            if not isinstance(failure, ServiceError):
                raise failure
        if len(failures) == len(chosen):
            told = "; ".join(f"{name}: {failure}" for name, failure in failures.items())
            raise NoRoom(f"no member that was set apart for jobs takes {model_id} ({told})")

    def _chosen(self) -> list[Member]:
        """Those that have least to do. Raises NoRoom."""
        if self._is_switching():
            raise NoRoom("members are set apart for jobs when the switch that runs is over")
        everybody = self._members.all()
        most = math.floor(self._share * (len(everybody) + 1))
        free = most - sum(member.apart is not None for member in everybody)
        chosen = sorted(self._members.ready(), key=lambda member: member.in_flight)[: max(0, free)]
        if not chosen:
            raise NoRoom(f"the fleet's share for jobs (fleet.job_share) is {most} members, and none is free")
        return chosen
