"""Keeps the queue true when others die or go: dead leases, jobs without a model, an engine to give back."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection

from control.errors import GatewayUnavailable, ServiceError
from control.jobs.ending import FROZEN, FROZEN_TWICE, Ending, Lost
from control.jobs.engine_borrow import EngineBorrow, EngineBorrows, EngineSwitcher
from control.jobs.leases import Lease, LeaseWatch, is_surely_dead, pid_of
from control.jobs.queue import JobQueue
from control.tasks import Tasks

log = logging.getLogger(__name__)

GIVE_BACK_PAUSE_S = 5.0


class Reaper:
    """Called by the job runner's loop: one call at a time.

    `frozen_pid`: the process before this one, where it was ended because its event loop stood still. A job that it was
    at is tried once more and fails the next time, or it would take control down with it for ever.
    """

    def __init__(
        self,
        queue: JobQueue,
        borrows: EngineBorrows,
        switcher: EngineSwitcher,
        lease_s: float,
        monotonic_s: Callable[[], float] = time.monotonic,
        frozen_pid: int | None = None,
    ) -> None:
        self._frozen_pid = frozen_pid
        self._queue = queue
        self._borrows = borrows
        self._switcher = switcher
        self._watch = LeaseWatch(lease_s, monotonic_s)
        self._monotonic_s = monotonic_s
        self._tasks = Tasks()
        self._giving_back: asyncio.Task[None] | None = None
        self._not_again_until_s = 0.0

    async def reap_dead(self) -> None:
        """Gives back what dead processes of this host hold, without waiting for their leases."""
        for lease in await self._queue.leases():
            if lease.owner is not None and is_surely_dead(lease.owner):
                await self._queue.end(lease, await self._ending(lease, lease.owner))

    async def _ending(self, lease: Lease, owner: str) -> Ending:
        if self._frozen_pid is None or pid_of(owner) != self._frozen_pid:
            return Lost("its process died")
        return FROZEN_TWICE if await self._queue.has_frozen(lease.job_id) else FROZEN

    async def reap(self, me: str, at_work: Collection[str]) -> None:
        """`at_work`: the ids of the jobs that the owner `me` works at; whatever else has its name is lost.

        Raises DatabaseUnavailable.
        """
        leases = await self._queue.leases()
        for lease in leases:
            if lease.owner == me and lease.job_id not in at_work:
                await self._queue.end(lease, Lost("its end could not be written"))
        for lease in self._watch.dead(lease for lease in leases if lease.owner != me):
            await self._queue.end(lease, Lost("its worker gave no sign of life"))
        await self._queue.date_endings()
        await self._queue.fail_orphans()
        await self._settle_borrow()

    async def close(self) -> None:
        """A switch under way goes on without us; the borrow's row says what is left to do."""
        await self._tasks.close()

    async def _settle_borrow(self) -> None:
        borrow = await self._borrows.present()
        if borrow is None or (self._giving_back is not None and not self._giving_back.done()):
            return
        match borrow.next_step():
            case "forget":
                await self._borrows.forget(borrow)
            case "give back" if self._monotonic_s() >= self._not_again_until_s:
                self._giving_back = self._tasks.spawn(self._give_back(borrow), name="giving the engine back")

    async def _give_back(self, borrow: EngineBorrow) -> None:
        assert borrow.return_to is not None
        try:
            await self._switcher.switch_to(borrow.return_to, f"give back after {borrow.job_id}")
        except GatewayUnavailable as error:
            self._not_again_until_s = self._monotonic_s() + GIVE_BACK_PAUSE_S
            log.warning("%s cannot be given the engine back yet: %s", borrow.return_to, error)
            return
        except ServiceError as error:
            log.error(
                "%s cannot be given the engine back, %s stays active: %s", borrow.return_to, borrow.model_id, error
            )
        await self._borrows.forget(borrow)
