"""The job runner: runs the queue's jobs in this process, each from being taken to its ending."""

import asyncio
import logging
import random
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from control.database.tables import JobRow
from control.errors import DatabaseUnavailable, ModelNotServed
from control.jobs.attempt import Attempt, AttemptBuilder, EngineAttempt, RunLock
from control.jobs.ending import (
    SHUTDOWN,
    TAKEN,
    AttemptFacts,
    Outcome,
    Requeued,
    RetryPolicy,
    Stop,
    ending_of,
    held,
    is_defect,
)
from control.jobs.engine_borrow import EngineSwitcher
from control.jobs.events import note
from control.jobs.leases import keep_lease, new_owner, why_lost
from control.jobs.limits import RunnerLimits
from control.jobs.picker import JobPicker
from control.jobs.queue import JobQueue
from control.jobs.reaper import Reaper
from control.jobs.side_loader import ModelLoader, SideLoader
from control.jobs.waiting import RunnerView
from control.tasks import Tasks, is_set_within
from stepserve import request_id as ids
from stepserve.jobs.ports import EngineKind, StandaloneKind

log = logging.getLogger(__name__)

STOP_GRACE_S = 2.0


@dataclass(slots=True, eq=False)
class _Running:
    """One attempt. `attempt` and `run` are there once it has been prepared; `told`: why it has to end."""

    job: JobRow
    borrows: bool
    attempt: Attempt | None = None
    run: asyncio.Task[dict[str, Any]] | None = None
    told: Stop | None = None

    def stop(self, why: Stop) -> None:
        """The first reason stays."""
        self.told = self.told or why
        if self.attempt is not None:
            self.attempt.stop = self.attempt.stop or why
        if self.run is not None:
            self.run.cancel()

    @property
    def is_over(self) -> bool:
        return self.run is not None and self.run.done()


class JobRunner:
    """Started once, stopped once. Its lease owner names this runner of this start of this process."""

    def __init__(
        self,
        *,
        kinds: Mapping[str, EngineKind],
        standalone: Mapping[str, StandaloneKind],
        queue: JobQueue,
        attempts: AttemptBuilder,
        switcher: EngineSwitcher,
        reaper: Reaper,
        loader: ModelLoader,
        limits: RunnerLimits,
    ) -> None:
        self._kinds = kinds
        self._standalone = standalone
        self._queue = queue
        self._attempts = attempts
        self._switcher = switcher
        self._reaper = reaper
        self._owner = new_owner()
        self._wake = asyncio.Event()
        self._side_loader = SideLoader(loader, self._wake.set)
        self._picker = JobPicker(
            queue=queue,
            owner=self._owner,
            side_loader=self._side_loader,
            limits=limits,
            engine_types=kinds.keys(),
            standalone_types=standalone.keys(),
        )
        self._tasks = Tasks()
        self._loop: asyncio.Task[None] | None = None
        self._running: dict[asyncio.Task[None], _Running] = {}
        self._model_changed = False
        self._stopping = False

    @property
    def types(self) -> list[str]:
        """Of the jobs it knows how to run."""
        return [*self._kinds, *self._standalone]

    @property
    def held(self) -> Mapping[str, str]:
        """Types of jobs that may not run, each with the reason."""
        return self._picker.held

    @property
    def view(self) -> RunnerView:
        return self._picker.view(self._jobs())

    async def start(self) -> None:
        """Gives back at once what a dead process of this host held, then begins."""
        await self._reaper.reap_dead()
        self._loop = self._tasks.spawn(self._work(), name="job runner")

    def set_max_concurrent_jobs(self, count: int) -> None:
        """Holds at once: more jobs start, or none until fewer run. No running job is stopped for it."""
        self._picker.limits = replace(self._picker.limits, max_concurrent_jobs=count)
        self.wake()

    def hold(self, reasons: Mapping[str, str]) -> None:
        """Types of jobs that may not run, each with the reason; running ones go back to the queue with what they have.

        Holds until the next call.
        """
        freed = self._picker.held.keys() - reasons.keys()
        self._picker.held = dict(reasons)
        for running in self._running.values():
            if running.job.type in reasons and running.told is None:
                running.stop(held(reasons[running.job.type]))
        if freed:
            self.wake()

    def wake(self, *, model_changed: bool = False) -> None:
        """There may be a job to take."""
        self._model_changed = self._model_changed or model_changed
        self._wake.set()

    def interrupt(self, job_id: str) -> None:
        """Stops the run of a job whose row is cancelled already, sooner than it would notice itself."""
        for running in self._running.values():
            if running.job.id == job_id:
                running.stop(TAKEN)

    async def stop(self) -> None:
        """Ends every run and gives its job back to the queue; a run that will not end keeps nobody waiting."""
        self._stopping = True
        self._wake.set()
        if self._loop is not None:
            await asyncio.wait({self._loop})
        for running in self._running.values():
            running.stop(SHUTDOWN)
        if self._running:
            await asyncio.wait(self._running, timeout=STOP_GRACE_S)
        for running in list(self._running.values()):
            if not running.is_over:
                log.error("%s does not stop, its lease is given up", running.job.id)
                await self._queue.end(running.job, Requeued(SHUTDOWN.reason))
        await self._reaper.close()
        await self._side_loader.close()
        await self._tasks.close()

    async def _work(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                await self._reaper.reap(self._owner, {job.id for job in self._jobs()})
                if self._model_changed:
                    self._model_changed = False
                    self._side_loader.refused.clear()
                    self._side_loader.ready.clear()  # asked for again, which costs nothing where it is still so
                    await self._queue.end_backoff()
                await self._fill()
            except (DatabaseUnavailable, SQLAlchemyError) as error:
                log.error("cannot look after the queue: %s", error)
            except Exception:
                # A supervisor loop: a defect here must not end all jobs to come.
                log.exception("the job runner failed")
            await is_set_within(self._wake, self._picker.limits.poll_s)

    async def _fill(self) -> None:
        """Starts jobs until every place is taken or none may start."""
        for pick in (self._picker.next_standalone, self._picker.next_on_engine):
            while not self._stopping and (picked := await pick(self._jobs())) is not None:
                running = _Running(picked.job, picked.borrows)
                task = self._tasks.spawn(self._run_attempt(running), name=f"job {picked.job.id}")
                self._running[task] = running
                task.add_done_callback(self._freed)

    def _jobs(self) -> list[JobRow]:
        return [running.job for running in self._running.values()]

    def _freed(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        self._wake.set()

    async def _run_attempt(self, running: _Running) -> None:
        """One attempt at a job that was taken: prepares it, runs it, and writes how it ended."""
        job = running.job
        if self._stopping:
            outcome: Outcome = asyncio.CancelledError()
            running.stop(SHUTDOWN)
        else:
            note("started", job)
            outcome = await self._outcome(running)
        if isinstance(outcome, ModelNotServed):
            self._side_loader.forget(job.model_id)
        try:
            await self._queue.end(job, ending_of(outcome, self._facts(running), self._policy))
        except (DatabaseUnavailable, SQLAlchemyError):
            log.exception("cannot write the end of %s: it will be taken up again", job.id)

    def _facts(self, running: _Running) -> AttemptFacts:
        attempt, failures = running.attempt, running.job.failures
        return AttemptFacts(
            stop=running.told if attempt is None else attempt.stop,
            failures=failures if isinstance(failures, int) else 0,  # SQLite keeps words, where somebody writes them
            made_progress=attempt is not None and attempt.made_progress,
            folder=str(self._attempts.folder_of(running.job)),
        )

    @property
    def _policy(self) -> RetryPolicy:
        limits = self._picker.limits
        return RetryPolicy(limits.retries, limits.backoff_s, jitter=random.random())  # noqa: S311  # jitter

    async def _outcome(self, running: _Running) -> Outcome:
        """The result of a run, or the error that ended the attempt."""
        try:
            with ExitStack() as stack:
                attempt = await self._attempts.build(running.job, on_engine=running.job.type in self._kinds)
                await asyncio.to_thread(stack.enter_context, RunLock(attempt.run_dir))
                return await self._run_while_leased(running, attempt)
        except SQLAlchemyError as error:
            return DatabaseUnavailable(str(error))
        except Exception as error:
            # The job boundary: a defect of one job ends that job alone.
            if is_defect(error):
                log.exception("job %s crashed", running.job.id)
            return error

    async def _run_while_leased(self, running: _Running, attempt: Attempt) -> Outcome:
        """Runs the attempt for as long as its lease is kept. Raises what the run raises."""
        running.attempt, attempt.stop = attempt, running.told
        if running.told is not None:
            return asyncio.CancelledError()
        over = asyncio.Event()
        run = asyncio.create_task(self._run(running, attempt), name=f"run of {attempt.job_id}")
        lease = asyncio.create_task(self._keep_lease(attempt, over), name=f"lease of {attempt.job_id}")
        running.run = run
        try:
            await asyncio.wait({run, lease}, return_when=asyncio.FIRST_COMPLETED)
            if not run.done():
                running.stop(why_lost(lease))
            over.set()
            await asyncio.wait({run, lease})
        finally:
            lease.cancel()
            run.cancel()
        if run.cancelled():
            return asyncio.CancelledError()
        result = run.result()
        await attempt.flush()
        return result

    async def _run(self, running: _Running, attempt: Attempt) -> dict[str, Any]:
        job = running.job
        ids.job_id.set(job.id)  # in the run's own task: its log lines and requests carry these
        ids.request_id.set(job.request_id)
        ids.key_id.set(job.created_by)
        if running.borrows:
            await self._switcher.switch_to(job.model_id, f"job {job.id}")
        if not isinstance(attempt, EngineAttempt):
            return await self._standalone[job.type].run(attempt)
        result = await self._kinds[job.type].run(attempt)
        used = await attempt.used()
        return result | {name: value for name, value in used.shown().items() if value is not None}

    async def _keep_lease(self, attempt: Attempt, over: asyncio.Event) -> Stop | None:
        limits = self._picker.limits
        return await keep_lease(
            attempt.job_id,
            lambda: self._queue.heartbeat(attempt.job_id, self._owner),
            over,
            every_s=min(limits.poll_s, limits.lease_s / 3),
            lease_s=limits.lease_s,
        )
