"""One attempt at a job: the context that its kind runs with, and the lock on its folder."""

import asyncio
import fcntl
import logging
import re
import time
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from control.database.tables import UNREADABLE, JobRow
from control.errors import BadJob, DatabaseUnavailable, JobCancelled, NotFound, RunIsLocked
from control.jobs.ending import TAKEN, Stop
from control.jobs.limits import RunnerLimits
from control.jobs.queue import JobQueue
from control.jobs.side_loader import ModelLoader
from control.jobs.spread_engine import JobFleet, SpreadEngine
from control.models.repository import ModelRepository
from stepserve.contract import ModelRef
from stepserve.full_disk import is_disk_full
from stepserve.jobs.ports import BatchEngine, CardUse, ShardLedger
from stepserve.paths import Layout

REPORT_INTERVAL_S = 1.0
LOCK_FILE = ".lock"
_IS_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")

JobMeter = Callable[[str], Awaitable[CardUse]]
"""How much a job has used of the cards until now."""

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Attempt:
    """Implements stepserve.jobs.ports.StandaloneContext. `stop`: why it has to end; the first reason stays."""

    job_id: str
    config: dict[str, Any]
    run_dir: Path
    queue: JobQueue
    owner: str
    monotonic_s: Callable[[], float] = time.monotonic
    stop: Stop | None = None
    _written_at_s: float | None = field(default=None, init=False)
    _first: tuple[float, int] | None = field(default=None, init=False)
    _latest: tuple[int, int | None] | None = field(default=None, init=False)

    async def report(self, done: int, total: int | None) -> None:
        if self.stop is not None:
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
    def made_progress(self) -> bool:
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
            self.stop = self.stop or TAKEN
            raise JobCancelled(f"{self.job_id} was cancelled")


@dataclass(slots=True, kw_only=True)
class EngineAttempt(Attempt):
    """Implements stepserve.jobs.ports.JobContext. `shared` has the jobs that members have answered something of."""

    model: ModelRef
    datasets_dir: Path
    engine: SpreadEngine
    batch_items: int
    shards: ShardLedger
    models: ModelRepository
    loader: ModelLoader
    shared: AbstractSet[str]
    meter: JobMeter | None = None
    _used: CardUse | None = field(default=None, init=False)

    def window_items(self, model: ModelRef) -> int:
        return self.engine.window_items(model)

    async def load_beside(self, model_id: str) -> ModelRef:
        model = await self.models.get(model_id)
        await self.loader.load_beside(model_id)
        return ModelRef(id=model.id, path=model.path, digest=model.digest)

    async def used(self) -> CardUse:
        """Nobody counts what members' cards have done."""
        if self._used is None:
            meter = None if self.job_id in self.shared else self.meter
            self._used = CardUse() if meter is None else await meter(self.job_id)
        return self._used


class AttemptBuilder:
    """Makes attempts for lease holders: checks the job's row and gives the attempt a folder and what it works with."""

    def __init__(
        self,
        *,
        queue: JobQueue,
        models: ModelRepository,
        engine: BatchEngine,
        fleet: JobFleet,
        layout: Layout,
        limits: RunnerLimits,
        shards: ShardLedger,
        loader: ModelLoader,
        meter: JobMeter | None = None,
    ) -> None:
        self._queue = queue
        self._models = models
        self._engine = engine
        self._fleet = fleet
        self._layout = layout
        self._limits = limits
        self._shards = shards
        self._loader = loader
        self._meter = meter
        self._shared: set[str] = set()

    def folder_of(self, job: JobRow) -> Path:
        """Where its files are."""
        return self._layout.runs / job.type / job.id

    async def build(self, job: JobRow, *, on_engine: bool) -> Attempt:
        """An EngineAttempt where it runs `on_engine`.

        Raises NotFound when the job's model is not there any more, BadJob when there is no place for its files or for
        a row that this program did not write, OSError for a full disk.
        """
        if not isinstance(job.config, dict) or UNREADABLE in job.config:
            raise BadJob(f"its config in the database is not a JSON object: {job.config!r}")
        if not _IS_ID.fullmatch(job.id):
            raise BadJob("its id is none that a job can have, since its files have a folder of that name")
        assert job.lease_owner is not None
        if not on_engine:
            run_dir = await self._run_dir(job)
            return Attempt(
                job_id=job.id, config=job.config, run_dir=run_dir, queue=self._queue, owner=job.lease_owner
            )  # fmt: skip
        model = await self._models.get(job.model_id)
        if model.digest != job.model_digest:
            raise NotFound(f"{job.model_id} has other content now than when the job was made ({job.model_digest})")
        engine = SpreadEngine(
            local=self._engine,
            fleet=self._fleet,
            own_window_items=self._limits.window.items((model.engine or {}).get("max_num_seqs")),
            on_shared=partial(self._shared.add, job.id),
        )
        return EngineAttempt(
            job_id=job.id,
            model=ModelRef(id=model.id, path=model.path, digest=model.digest),
            config=job.config,
            run_dir=await self._run_dir(job),
            datasets_dir=self._layout.datasets,
            engine=engine,
            batch_items=self._limits.batch_items,
            shards=self._shards,
            models=self._models,
            loader=self._loader,
            shared=self._shared,
            meter=self._meter,
            queue=self._queue,
            owner=job.lease_owner,
        )

    async def _run_dir(self, job: JobRow) -> Path:
        run_dir = self.folder_of(job)
        try:
            await asyncio.to_thread(run_dir.mkdir, parents=True, exist_ok=True)
        except OSError as error:
            if is_disk_full(error):
                raise
            raise BadJob(str(error)) from error
        return run_dir


class RunLock:
    """One writer a run folder: the kernel lets the lock go when its holder dies, however it dies.

    Guards against a runner that was thought dead (a machine asleep, a stopped process) and goes on writing.
    """

    def __init__(self, run_dir: Path) -> None:
        self._file = (run_dir / LOCK_FILE).open("ab")

    def __enter__(self) -> Self:
        """Raises RunIsLocked; never waits."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise RunIsLocked("an earlier attempt is still alive") from None
        except OSError:  # a file system without locks
            log.warning("%s cannot be locked", self._file.name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
