"""One loop that announces what ended and makes the deliveries that are due."""

import asyncio
import logging
import time

from control.access.view import EVERYTHING
from control.database.tables import JobRow
from control.errors import DatabaseUnavailable, GatewayUnavailable, ServiceError
from control.gateway_client import GatewayClient
from control.models.eval_history import EvalHistory
from control.notifications.events import Event, of_death, of_decision, of_fall
from control.notifications.outbox import Delivery, Outbox
from control.notifications.targets import DeliveryFailed, Targets
from control.tasks import repeat, uncut
from stepserve.jobs.eval_ports import EvalReports

log = logging.getLogger(__name__)

ALPHA = 0.05
"""An accuracy has fallen when McNemar's exact test says so at this level."""
_AT_ONCE = 8
_TRACKED_AT_ONCE = 4  # each is a process
_HISTORY = 500
_FORGETS_EVERY_S = 3600.0


class Notifier:
    """Looks every `look_every_s`, and at once after `poke`. A target that is slow holds up other deliveries by at most
    its time limit; a tracker its own alone.
    """

    def __init__(
        self,
        outbox: Outbox,
        targets: Targets,
        gateway: GatewayClient,
        evals: EvalHistory,
        reports: EvalReports | None,
        look_every_s: float = 2.0,
    ) -> None:
        self._outbox = outbox
        self._targets = targets
        self._gateway = gateway
        self._evals = evals
        self._reports = reports
        self._look_every_s = look_every_s
        self._wakes = (asyncio.Event(), asyncio.Event())
        self._forgot_at_s = -_FORGETS_EVERY_S
        self._tracking: set[str] = set()

    def poke(self) -> None:
        for wake in self._wakes:
            wake.set()

    async def run(self) -> None:
        """For ever, until cancelled. A tracker that hangs holds up nobody, unless as many hang as are asked at once."""
        told, tracked = self._wakes
        async with asyncio.TaskGroup() as group:
            group.create_task(repeat(self._round, "a round of notifications", self._look_every_s, told))
            group.create_task(
                repeat(lambda: self._track(group), "a round of notifications to trackers", self._look_every_s, tracked)
            )

    async def _round(self) -> None:
        await uncut(self._announce())
        self._wakes[1].set()
        while due := await uncut(self._outbox.take(_AT_ONCE, trackers=False)):
            await asyncio.gather(*(self._deliver(delivery) for delivery in due))

    async def _track(self, group: asyncio.TaskGroup) -> None:
        """Begins what is due, one delivery of each tracker at a time."""
        while len(self._tracking) < _TRACKED_AT_ONCE:
            due = await uncut(self._outbox.take(1, trackers=True, besides=self._tracking))
            if not due:
                return
            self._tracking.add(due[0].webhook)
            group.create_task(self._track_one(due[0]))

    async def _track_one(self, delivery: Delivery) -> None:
        try:
            await self._deliver(delivery)
        except DatabaseUnavailable as error:  # it is made again when nobody holds it any more
            log.info("the delivery %d to a tracker: not now: %s", delivery.id, error)
        except Exception:
            # As of a round: a defect here must not end all later notifications.
            log.exception("the delivery %d to a tracker failed", delivery.id)
        finally:
            self._tracking.discard(delivery.webhook)
            self._wakes[1].set()

    async def _announce(self) -> None:
        if time.monotonic() - self._forgot_at_s >= _FORGETS_EVERY_S:
            await self._outbox.forget_old()
            self._forgot_at_s = time.monotonic()
        while ended := await self._outbox.ended():
            falls = [event for job in ended.jobs if (event := await self._fall_after(job)) is not None]
            decisions = [
                event for job in ended.jobs if (event := of_decision(job, ended.steps.get(job.id))) is not None
            ]
            await self._outbox.announce(ended, [*falls, *decisions])
        if await self._outbox.webhooks():
            await self._look_for_deaths()

    async def _look_for_deaths(self) -> None:
        try:
            state = await self._gateway.state()
        except GatewayUnavailable:
            return
        if state.deaths:
            await self._outbox.add([of_death(state.boot_id, death) for death in state.deaths])

    async def _fall_after(self, job: JobRow) -> Event | None:
        if self._reports is None or job.type != "eval" or job.status != "done" or job.result is None:
            return None
        try:
            return await self._fall_of(job, self._reports)
        except (ServiceError, ValueError, TypeError, KeyError) as error:  # no samples were kept, an odd row …
            log.info("the accuracy of %s is not compared with the one before: %s", job.id, error)
            return None

    async def _fall_of(self, job: JobRow, reports: EvalReports) -> Event | None:
        """Against the newest earlier eval of another content in the same series."""
        series = reports.series(job.config)
        for entry in await self._evals.newest(_HISTORY, EVERYTHING):
            before = entry.job
            if before.created_at >= job.created_at or before.model_digest == job.model_digest:
                continue
            if reports.series(before.config) != series or reports.spoilt(before.config, before.result or {}):
                continue
            first = await self._evals.done(before.id, "before", EVERYTHING)
            comparison = await reports.compare(first, await self._evals.done(job.id, "job", EVERYTHING), None)
            fell = comparison["difference"] < 0 and comparison["p"] < ALPHA
            return of_fall(job, before, comparison) if fell else None
        return None

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            await self._targets.deliver(delivery)
        except DeliveryFailed as error:
            log.warning("notification %s was not delivered: %s", delivery.content["id"], error)
            await uncut(self._outbox.failed(delivery, str(error), final=error.final))
        except Exception as error:
            # An address or an event that is odd in a new way must not be tried for ever, and uncounted.
            log.exception("notification %s could not be delivered", delivery.content["id"])
            await uncut(self._outbox.failed(delivery, f"{type(error).__name__}: {error}", final=False))
        else:
            await uncut(self._outbox.delivered(delivery))
