"""What keeps the queue true when others die or go: dead leases, jobs without a model, an engine to give back."""

import asyncio
import logging
import time
from collections.abc import Callable, Collection

from control.errors import GatewayUnavailable, ServiceError
from control.jobs.ids import is_surely_dead
from control.jobs.leases import LeaseWatch
from control.jobs.loans import EngineLender, Loan, LoanBook
from control.jobs.queue import JobQueue
from control.tasks import Tasks

log = logging.getLogger(__name__)

GIVE_BACK_PAUSE_S = 5.0


class Caretaker:
    """Looked after by the worker's loop: one call at a time."""

    def __init__(
        self,
        queue: JobQueue,
        loans: LoanBook,
        lender: EngineLender,
        lease_s: float,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._loans = loans
        self._lender = lender
        self._watch = LeaseWatch(lease_s, monotonic_s)
        self._monotonic_s = monotonic_s
        self._tasks = Tasks()
        self._giving_back: asyncio.Task[None] | None = None
        self._not_again_until_s = 0.0

    async def release_dead(self) -> None:
        """Gives back what dead processes of this host hold, without waiting for their leases."""
        for lease in await self._queue.leases():
            if lease.owner is not None and is_surely_dead(lease.owner):
                await self._queue.release_lost(lease, "its process died")

    async def look_around(self, me: str, at_work: Collection[str]) -> None:
        """`at_work`: the ids of the jobs that the owner `me` works at; whatever else has its name is lost.

        Raises DatabaseUnavailable.
        """
        leases = await self._queue.leases()
        for lease in leases:
            if lease.owner == me and lease.job_id not in at_work:
                await self._queue.release_lost(lease, "its end could not be written")
        for lease in self._watch.dead(lease for lease in leases if lease.owner != me):
            await self._queue.release_lost(lease, "its worker gave no sign of life")
        await self._queue.fail_orphans()
        await self._look_after_loan()

    async def close(self) -> None:
        """A switch under way goes on without us; the loan's row says what is left to do."""
        await self._tasks.close()

    async def _look_after_loan(self) -> None:
        loan = await self._loans.present()
        if loan is None or (self._giving_back is not None and not self._giving_back.done()):
            return
        match loan.next_step():
            case "forget":
                await self._loans.forget(loan)
            case "give back" if self._monotonic_s() >= self._not_again_until_s:
                self._giving_back = self._tasks.spawn(self._give_back(loan), name="giving the engine back")

    async def _give_back(self, loan: Loan) -> None:
        assert loan.return_to is not None
        try:
            await self._lender.switch_to(loan.return_to, f"give back after {loan.job_id}")
        except GatewayUnavailable as error:
            self._not_again_until_s = self._monotonic_s() + GIVE_BACK_PAUSE_S
            log.warning("%s cannot be given the engine back yet: %s", loan.return_to, error)
            return
        except ServiceError as error:
            log.error("%s cannot be given the engine back, %s stays active: %s", loan.return_to, loan.model_id, error)
        await self._loans.forget(loan)
