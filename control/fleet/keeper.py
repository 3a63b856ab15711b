"""The keeper: brings members that serve something else to what is committed, whoever of the two was away."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from control.errors import GatewayUnavailable, ServiceError
from control.fleet.bringing import Bringer
from control.fleet.members import Member, Members
from control.fleet.rollouts import Rollouts
from control.models.activation_log import ActivationLog, ActiveModel
from control.tasks import Tasks, repeat
from stepserve.fleet import Committed

log = logging.getLogger(__name__)

_AT_ONCE = 8  # members that get files and load at the same time
_FIRST_REST_S, _LONGEST_REST_S = 1.0, 60.0


@dataclass(slots=True)
class _Rest:
    """After an attempt that failed: for what, until when, and how long the next one will be."""

    committed: Committed
    until_s: float
    next_s: float


class Keeper:
    """Leaves a member alone while a rollout has it, or one of an earlier process is not settled yet.

    `adopt` commits weights that were pushed to control's own gateway before it had members.
    """

    def __init__(
        self,
        members: Members,
        rollouts: Rollouts,
        bringer: Bringer,
        history: ActivationLog,
        adopt: Callable[[], Awaitable[None]],
        every_s: float,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._members = members
        self._rollouts = rollouts
        self._bringer = bringer
        self._history = history
        self._adopt = adopt
        self._every_s = every_s
        self._clock_s = clock_s
        self._tasks = Tasks()
        self._busy: set[Member] = set()
        self._rests: dict[Member, _Rest] = {}
        self._turns = asyncio.Semaphore(_AT_ONCE)

    async def run(self) -> None:
        """For ever, until cancelled."""
        try:
            await repeat(self.look, "the keeper of the fleet", self._every_s, self._members.changed)
        finally:
            await self._tasks.close()

    async def look(self) -> None:
        """Learns what is committed, and begins with every member that should be brought there."""
        await self._members.note_lost()
        if not self._members.is_empty and not self._rollouts.unsettled:
            try:
                await self._adopt()
            except GatewayUnavailable as error:  # what it had in memory alone is gone, or it answers the next look
                log.info("whether weights were pushed to control's own gateway is not known: %s", error)
        before = self._members.committed
        active = await self._history.active()
        if self._members.committed != before:  # a switch has ended meanwhile, and what was read may be older
            self._members.changed.set()
            return
        committed = None if active is None else active.committed
        if committed != self._members.committed:
            self._members.committed = committed
            self._rests.clear()
        self._rests = {member: rest for member, rest in self._rests.items() if self._members.find(member.id) is member}
        if active is None or self._rollouts.unsettled:
            return
        for member in self._members.all():
            if self._is_due(member, active.committed):
                self._busy.add(member)
                self._tasks.spawn(self._bring(member, active), name=f"bring {member.id} to {active}")

    def _is_due(self, member: Member, committed: Committed) -> bool:
        if member in self._busy or self._members.state(member)[0] != "joining" or member.target is not None:
            return False
        if member.serves == committed:  # its engine is loading, or has died: the gateway's own matter
            return False
        rest = self._rests.get(member)
        return rest is None or rest.committed != committed or self._clock_s() >= rest.until_s

    async def _bring(self, member: Member, active: ActiveModel) -> None:
        committed = active.committed
        try:
            async with self._turns:
                if self._members.committed != committed or self._members.find(member.id) is not member:
                    return  # while it waited for its turn
                await self._bringer.bring(member, await self._bringer.wanted(active))
            self._rests.pop(member, None)
            log.info("%s serves %s", member.id, active)
        except (ServiceError, SQLAlchemyError) as error:
            self._rest(member, committed, str(error))
        except Exception as error:
            # A defect here must not have the member asked again without a pause.
            self._rest(member, committed, f"unexpected error: {error!r}")
            raise
        finally:
            self._busy.discard(member)
            self._members.changed.set()

    def _rest(self, member: Member, committed: Committed, trouble: str) -> None:
        former = self._rests.get(member)
        rest_s = former.next_s if former is not None and former.committed == committed else _FIRST_REST_S
        self._rests[member] = _Rest(committed, self._clock_s() + rest_s, min(2 * rest_s, _LONGEST_REST_S))
        member.trouble = trouble
        log.error("%s could not be brought to %s, tried again in %g s: %s", member.id, committed.model, rest_s, trouble)
