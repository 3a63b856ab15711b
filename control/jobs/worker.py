"""The worker: runs the queue's jobs in this process, as many at a time as allowed."""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from control.errors import ControlError, GatewayUnavailable, JobCancelled, ModelNotServed, NotFound
from control.jobs.context import Attempt
from control.jobs.events import note
from control.jobs.ids import is_surely_dead, this_owner
from control.jobs.queue import JobQueue
from control.jobs.states import Status
from control.ports import BatchEngine, JobKind
from control.repository import ModelRepository
from control.tables import JobRow
from control.tasks import Tasks
from switchyard.contract import ModelRef
from switchyard.paths import Layout

log = logging.getLogger(__name__)

REST_S = 5.0  # a job that no engine answered is left alone so long, unless the active model changes
STOP_GRACE_S = 2.0


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """`poll_s`: how soon a change is seen that nobody told the worker of, such as SQL by hand."""

    max_concurrent_jobs: int
    batch_items: int
    batch_window_items: int
    lease_s: float
    poll_s: float = 1.0


@dataclass(frozen=True, slots=True)
class _Running:
    attempt: Attempt
    run: asyncio.Task[dict[str, Any]]


class Worker:
    """Started once, stopped once. Its lease owner names this start of this process."""

    def __init__(
        self,
        *,
        kinds: Mapping[str, JobKind],
        queue: JobQueue,
        models: ModelRepository,
        engine: BatchEngine,
        layout: Layout,
        limits: WorkerLimits,
    ) -> None:
        self._kinds = kinds
        self._queue = queue
        self._models = models
        self._engine = engine
        self._layout = layout
        self._limits = limits
        self._owner = this_owner()
        self._wake = asyncio.Event()
        self._tasks = Tasks()
        self._loop: asyncio.Task[None] | None = None
        self._shepherds: set[asyncio.Task[None]] = set()
        self._running: dict[str, _Running] = {}
        self._resting_until_s: dict[str, float] = {}
        self._stopping = False

    async def start(self) -> None:
        """Gives back at once what a dead process of this host held, then begins."""
        for job in await self._queue.release_dead(is_surely_dead):
            note("released", job, reason="its process died")
        self._loop = self._tasks.spawn(self._work(), name="job worker")

    def wake(self, *, model_changed: bool = False) -> None:
        """There may be something to claim."""
        if model_changed:
            self._resting_until_s.clear()
        self._wake.set()

    def interrupt(self, job_id: str) -> None:
        """Stops the run of a job whose row is cancelled already, sooner than it would notice itself."""
        running = self._running.get(job_id)
        if running is not None:
            running.attempt.stopped = True
            running.run.cancel()

    async def stop(self) -> None:
        """Ends every run and gives its job back to the queue; a run that will not end keeps nobody waiting."""
        self._stopping = True
        self._wake.set()
        if self._loop is not None:
            await asyncio.wait({self._loop})
        for job_id in list(self._running):
            self.interrupt(job_id)
        if self._shepherds:
            await asyncio.wait(self._shepherds, timeout=STOP_GRACE_S)
        for job_id in list(self._running):
            log.error("%s does not stop, its lease is given up", job_id)
            await self._queue.release(job_id, self._owner)
        await self._tasks.close()

    async def _work(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                await self._fill()
            except SQLAlchemyError as error:
                log.error("cannot claim jobs: %s", error)
            try:
                async with asyncio.timeout(self._limits.poll_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _fill(self) -> None:
        """Claims jobs until every place is taken or none is left."""
        while not self._stopping and len(self._shepherds) < self._limits.max_concurrent_jobs:
            now_s = time.monotonic()
            self._resting_until_s = {job: until for job, until in self._resting_until_s.items() if until > now_s}
            busy = {*self._resting_until_s, *self._running}
            job = await self._queue.claim(self._owner, self._kinds, busy)
            if job is None:
                return
            shepherd = self._tasks.spawn(self._shepherd(job), name=f"job {job.id}")
            self._shepherds.add(shepherd)
            shepherd.add_done_callback(self._freed)

    def _freed(self, shepherd: asyncio.Task[None]) -> None:
        self._shepherds.discard(shepherd)
        self._wake.set()

    async def _shepherd(self, job: JobRow) -> None:
        """One attempt from claim to end: runs it, keeps its lease, writes how it ended."""
        if self._stopping:
            await self._queue.release(job.id, self._owner)
            return
        note("started", job)
        kind = self._kinds[job.type]
        try:
            attempt = await self._attempt(job)
        except (ControlError, OSError) as error:
            await self._finish(job, "failed", error=str(error))
            return
        run = asyncio.create_task(kind.run(attempt), name=f"run of {job.id}")
        watch = asyncio.create_task(self._watch(job.id), name=f"lease of {job.id}")
        self._running[job.id] = _Running(attempt, run)
        try:
            await asyncio.wait({run, watch}, return_when=asyncio.FIRST_COMPLETED)
            attempt.stopped = attempt.stopped or not run.done()
            run.cancel()
            await asyncio.wait({run})
        finally:
            watch.cancel()
            run.cancel()
            self._running.pop(job.id, None)
        await self._settle(job, attempt, run)

    async def _settle(self, job: JobRow, attempt: Attempt, run: asyncio.Task[dict[str, Any]]) -> None:
        """Writes the end of a run; where the row is not this worker's any more, whoever took it has the last word."""
        try:
            if run.cancelled():
                if self._stopping:
                    await self._release(job, "the server stops")
                elif not attempt.stopped:
                    await self._finish(job, "failed", error="the run ended itself")
                return
            result = run.result()
            await attempt.flush()
            await self._finish(job, "done", result=result)
        except (ModelNotServed, GatewayUnavailable) as error:
            self._resting_until_s[job.id] = time.monotonic() + REST_S
            await self._release(job, str(error))
        except JobCancelled:
            if self._stopping:
                await self._release(job, "the server stops")
            else:
                await self._finish(job, "cancelled")
        except ControlError as error:
            await self._finish(job, "failed", error=str(error))
        except SQLAlchemyError:
            log.exception("cannot write the end of %s: its lease will run out", job.id)
        except Exception as error:
            # The job boundary: a defect of one job ends that job alone.
            log.exception("job %s crashed", job.id)
            await self._finish(job, "failed", error=f"{type(error).__name__}: {error}"[:500])

    async def _watch(self, job_id: str) -> None:
        """Keeps the lease; returns when the job is not this worker's any more."""
        while True:
            await asyncio.sleep(min(self._limits.poll_s, self._limits.lease_s / 3))
            try:
                if not await self._queue.heartbeat(job_id, self._owner):
                    return
            except SQLAlchemyError as error:
                log.warning("no heartbeat for %s: %s", job_id, error)

    async def _attempt(self, job: JobRow) -> Attempt:
        """Raises NotFound when the job's model is not there any more, OSError when there is no place for its files."""
        model = await self._models.get(job.model_id)
        if model.digest != job.model_digest:
            raise NotFound(f"{job.model_id} has other content now than when the job was made ({job.model_digest})")
        run_dir = self._layout.runs / job.type / job.id
        await asyncio.to_thread(run_dir.mkdir, parents=True, exist_ok=True)
        return Attempt(
            job_id=job.id,
            model=ModelRef(id=model.id, path=model.path, digest=model.digest),
            config=job.config,
            run_dir=run_dir,
            datasets_dir=self._layout.datasets,
            engine=self._engine,
            batch_items=self._limits.batch_items,
            batch_window_items=self._limits.batch_window_items,
            queue=self._queue,
            owner=self._owner,
        )

    async def _finish(
        self, job: JobRow, status: Status, *, result: dict[str, Any] | None = None, error: str | None = None
    ) -> None:
        ended = await self._queue.finish(job.id, self._owner, status, result=result, error=error)
        if ended is not None:
            note(status, ended, **({"error": error} if error else {}))

    async def _release(self, job: JobRow, reason: str) -> None:
        released = await self._queue.release(job.id, self._owner)
        if released is not None:
            note("released", released, reason=reason)
