"""What a running job holds in its hands: one attempt's JobContext."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from control.errors import DatabaseUnavailable, JobCancelled
from control.jobs.queue import JobQueue
from stepserve.contract import ModelRef
from stepserve.jobs.ports import BatchEngine, CardUse, ShardLedger

REPORT_INTERVAL_S = 1.0

JobMeter = Callable[[str], Awaitable[CardUse]]
"""What a job has used of the cards until now."""

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Attempt:
    """Implements stepserve.jobs.ports.StandaloneContext. `stopped` is set when the attempt is to end; it never unsets.

    `lapsed`: it has to end because its lease could not be renewed. `held`: why it may not go on now.
    """

    job_id: str
    config: dict[str, Any]
    run_dir: Path
    queue: JobQueue
    owner: str
    monotonic_s: Callable[[], float] = time.monotonic
    stopped: bool = False
    lapsed: bool = False
    held: str | None = None
    _written_at_s: float | None = field(default=None, init=False)
    _first: tuple[float, int] | None = field(default=None, init=False)
    _latest: tuple[int, int] | None = field(default=None, init=False)

    async def report(self, done: int, total: int) -> None:
        if self.stopped:
            raise JobCancelled(f"{self.job_id} was stopped")
        self._latest = (done, total)
        now_s = self.monotonic_s()
        if self._first is None:
            self._first = (now_s, done)
        if self._written_at_s is None or now_s - self._written_at_s >= REPORT_INTERVAL_S:
            self._written_at_s = now_s
            try:
                await self.flush()
            except DatabaseUnavailable as error:  # whether the run may go on is for its lease to say
                log.warning("no progress written for %s: %s", self.job_id, error)

    @property
    def got_somewhere(self) -> bool:
        """Something was done in this attempt."""
        return self._latest is not None and self._first is not None and self._latest[0] > self._first[1]

    async def flush(self) -> None:
        """Writes the latest progress. Raises JobCancelled when the job is not this attempt's any more."""
        if self._latest is None or self._first is None:
            return
        done, total = self._latest
        first_s, first_done = self._first
        elapsed_s = self.monotonic_s() - first_s
        rate_per_s = (done - first_done) / elapsed_s if elapsed_s > 0 and done > first_done else None
        # Whoever cancels the run must not cut off a statement that has a lock in its hands.
        if not await asyncio.shield(self.queue.progress(self.job_id, self.owner, done, total, rate_per_s)):
            self.stopped = True
            raise JobCancelled(f"{self.job_id} was cancelled")


@dataclass(slots=True, kw_only=True)
class EngineAttempt(Attempt):
    """Implements stepserve.jobs.ports.JobContext."""

    model: ModelRef
    datasets_dir: Path
    engine: BatchEngine
    batch_items: int
    batch_window_items: int
    shards: ShardLedger
    meter: JobMeter | None = None
    _used: CardUse | None = field(default=None, init=False)

    async def used(self) -> CardUse:
        if self._used is None:
            self._used = CardUse() if self.meter is None else await self.meter(self.job_id)
        return self._used
