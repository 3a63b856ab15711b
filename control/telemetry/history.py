"""What was served and measured: a sample a second for an hour in memory, one a minute for a month in the database."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta

from pydantic import ValidationError
from sqlalchemy import Text, cast, delete, select

from control.clock import Clock, utc_now
from control.database.database import Database
from control.database.history_tables import MinuteRow
from control.errors import ServiceError
from control.gateway_client import GatewayClient
from control.tasks import repeat, uncut
from control.telemetry.samples import Sample, merged, sample_of, thinned
from control.telemetry.system import SystemSeen
from control.telemetry.telemetry import Telemetry
from stepserve.serving_report import ServingReport

log = logging.getLogger(__name__)

SECONDS_KEPT = 3600
DAYS_KEPT = 31
_MINUTE_S = 60.0
_SYSTEM_EVERY_S = 5.0  # it touches every mount
_READ_AT_ONCE = 500  # a month is 44,640 minutes
_LEAST_S = 0.001  # of a sample, since rates are per second of it


class History:
    """`run` is the one writer; others read."""

    def __init__(
        self,
        database: Database,
        gateway: GatewayClient,
        telemetry: Telemetry,
        every_s: float = 1.0,
        clock: Clock = utc_now,
    ) -> None:
        self._database = database
        self._gateway = gateway
        self._telemetry = telemetry
        self._every_s = every_s
        self._clock = clock
        self._recent: deque[Sample] = deque(maxlen=SECONDS_KEPT)
        self._unkept: list[Sample] = []  # of the minute that runs
        self._before: ServingReport | None = None
        self._system: SystemSeen | None = None
        self._system_at_s = -_SYSTEM_EVERY_S
        self._last_s = time.monotonic()

    async def run(self) -> None:
        """For ever, until cancelled. A database that does not answer loses minutes and nothing else."""
        await repeat(self._look, "history", self._every_s)

    async def between(self, since: datetime, step_s: float) -> list[Sample]:
        """One for each step since then, the oldest first. Raises DatabaseUnavailable."""
        recent = [sample for sample in self._recent if sample.at >= since]
        first = self._recent[0].at if self._recent else self._clock()
        if since >= first:
            return thinned(recent, step_s)
        earlier = (
            select(cast(MinuteRow.content, Text))
            .where(MinuteRow.at >= since, MinuteRow.at < first)
            .order_by(MinuteRow.at)
            .execution_options(yield_per=_READ_AT_ONCE)
        )
        kept: list[Sample] = []
        async with self._database.transaction() as session:
            async for contents in (await session.stream_scalars(earlier)).partitions():
                kept += await asyncio.to_thread(_read, contents)
        return await asyncio.to_thread(thinned, [*(each for each in kept if each.at < first), *recent], step_s)

    async def _look(self) -> None:
        now_s = time.monotonic()
        span_s, self._last_s = max(_LEAST_S, now_s - self._last_s), now_s
        report: ServingReport | None = None
        with suppress(ServiceError):
            report = await self._gateway.serving()
        if now_s - self._system_at_s >= _SYSTEM_EVERY_S:
            self._system, self._system_at_s = await self._telemetry.system(), now_s
        cards = self._telemetry.cards.seen.cards
        sample = sample_of(self._clock(), span_s, self._before, report, self._system, cards)
        self._before = report or self._before
        self._recent.append(sample)
        if self._unkept and sample.at.timestamp() // _MINUTE_S != self._unkept[0].at.timestamp() // _MINUTE_S:
            minute, self._unkept = merged(self._unkept), []
            try:
                await uncut(self._keep(minute))
            except ServiceError as error:
                log.warning("a minute of history is lost: %s", error)
        self._unkept.append(sample)

    async def _keep(self, minute: Sample) -> None:
        async with self._database.transaction() as session:
            await session.merge(MinuteRow(at=minute.at, content=minute.model_dump(mode="json")))
            await session.execute(delete(MinuteRow).where(MinuteRow.at < minute.at - timedelta(days=DAYS_KEPT)))


def _read(contents: Iterable[str]) -> list[Sample]:
    """What another version wrote, or a hand, is left out."""
    found = []
    for content in contents:
        with suppress(ValidationError):
            found.append(Sample.model_validate_json(content))
    return found
