"""The worker: runs the queue's jobs in this process, as many at a time as allowed."""

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from control.errors import (
    ControlError,
    DatabaseUnavailable,
    GatewayUnavailable,
    HubUnavailable,
    JobCancelled,
    JobPaused,
    ModelNotServed,
    NotFound,
)
from control.jobs.backoff import rest_s
from control.jobs.beside import Beside, BesideLoader
from control.jobs.caretaker import Caretaker
from control.jobs.context import Attempt, EngineAttempt
from control.jobs.events import note
from control.jobs.ids import new_owner
from control.jobs.loans import EngineLender
from control.jobs.queue import JobQueue
from control.jobs.run_lock import RunIsLocked, RunLock
from control.jobs.states import Status
from control.jobs.window import Window
from control.ports import BatchEngine, JobKind, ShardLedger, StandaloneKind
from control.repository import ModelRepository
from control.tables import JobRow
from control.tasks import Tasks
from switchyard import request_id as ids
from switchyard.contract import ModelRef
from switchyard.full_disk import is_disk_full
from switchyard.paths import Layout

JobMeter = Callable[[str], Awaitable[dict[str, float] | None]]
"""What a job has used until now, for its result; None when nothing was measured."""

log = logging.getLogger(__name__)

REST_S = 5.0  # a job whose model left the engine is left alone so long, unless the active model changes
STOP_GRACE_S = 2.0
LONGEST_PAUSE_SETBACKS = 5


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """`poll_s`: how soon a change is seen that nobody told the worker of, such as SQL by hand.

    `max_concurrent_jobs` counts those of the engine; standalone ones run beside them, `max_standalone` of each type.
    """

    max_concurrent_jobs: int
    batch_items: int
    window: Window
    lease_s: float
    poll_s: float = 1.0
    max_concurrent_by_type: Mapping[str, int] = field(default_factory=dict)
    retries: int = 20
    max_standalone: int = 2


@dataclass(frozen=True, slots=True)
class _Running:
    type: str
    attempt: Attempt
    run: asyncio.Task[dict[str, Any]]


class Worker:
    """Started once, stopped once. Its lease owner names this worker of this start of this process."""

    def __init__(
        self,
        *,
        kinds: Mapping[str, JobKind],
        queue: JobQueue,
        models: ModelRepository,
        engine: BatchEngine,
        lender: EngineLender,
        caretaker: Caretaker,
        beside: BesideLoader,
        layout: Layout,
        limits: WorkerLimits,
        shards: ShardLedger,
        meter: JobMeter | None = None,
        standalone: Mapping[str, StandaloneKind] | None = None,
    ) -> None:
        self._kinds = kinds
        self._standalone = dict(standalone or {})
        self._queue = queue
        self._models = models
        self._engine = engine
        self._lender = lender
        self._caretaker = caretaker
        self._layout = layout
        self._limits = limits
        self._shards = shards
        self._meter = meter
        self._owner = new_owner()
        self._wake = asyncio.Event()
        self._beside = Beside(beside, self._wake.set)
        self._tasks = Tasks()
        self._loop: asyncio.Task[None] | None = None
        self._shepherds: dict[asyncio.Task[None], JobRow] = {}
        self._running: dict[str, _Running] = {}
        self._model_changed = False
        self._stopping = False
        self.held: Mapping[str, str] = {}

    @property
    def types(self) -> list[str]:
        """Of the jobs it knows how to run."""
        return [*self._kinds, *self._standalone]

    async def start(self) -> None:
        """Gives back at once what a dead process of this host held, then begins."""
        await self._caretaker.release_dead()
        self._loop = self._tasks.spawn(self._work(), name="job worker")

    def set_max_concurrent_jobs(self, count: int) -> None:
        """Holds at once: more jobs start, or none until fewer run. No running job is stopped for it."""
        self._limits = replace(self._limits, max_concurrent_jobs=count)
        self.wake()

    def hold(self, reasons: Mapping[str, str]) -> None:
        """Types of jobs that may not run, each with the reason; running ones go back to the queue with what they have.

        Holds until the next call.
        """
        freed = self.held.keys() - reasons.keys()
        self.held = dict(reasons)
        for running in self._running.values():
            reason = reasons.get(running.type)
            if reason is not None and not running.attempt.stopped:
                running.attempt.held = reason
                running.attempt.stopped = True
                running.run.cancel()
        if freed:
            self.wake()

    def wake(self, *, model_changed: bool = False) -> None:
        """There may be something to claim."""
        self._model_changed = self._model_changed or model_changed
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
            await self._queue.release(job_id, self._owner, "the server stops")
        await self._caretaker.close()
        await self._beside.close()
        await self._tasks.close()

    async def _work(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                await self._caretaker.look_around(self._owner, {job.id for job in self._shepherds.values()})
                if self._model_changed:
                    self._model_changed = False
                    self._beside.ready.clear()  # asked for again, which costs nothing where it is still so
                    await self._queue.end_rests()
                await self._fill()
            except (DatabaseUnavailable, SQLAlchemyError) as error:
                log.error("cannot look after the queue: %s", error)
            except Exception:
                # A supervisor loop: a defect here must not end all jobs to come.
                log.exception("the worker stumbled")
            await _is_set_within(self._wake, self._limits.poll_s)

    async def _fill(self) -> None:
        """Claims jobs until every place is taken or none is left.

        A model that jobs wait for is loaded beside the active one where there is room; where there is none the engine
        is borrowed, in a quiet moment, by a job that may.
        """
        await self._fill_standalone()
        while not self._stopping and (at_engine := self._at_engine()) < self._limits.max_concurrent_jobs:
            types = self._open_types()
            job = await self._queue.claim(self._owner, types, self._still_here(), self._beside.ready)
            waiting = await self._queue.waiting_models(types) if job is None else ()
            if job is None and self._beside.opens_one_of(waiting):
                return
            borrows = job is None and not at_engine
            if borrows:
                job = await self._queue.claim_with_loan(self._owner, types, waiting)
            if job is None:
                return
            self._begin(job, borrows=borrows)

    async def _fill_standalone(self) -> None:
        """Those that need no engine have places of their own."""
        limits = self._limits.max_concurrent_by_type
        while not self._stopping:
            running = self._running_by_type()
            limit = self._limits.max_standalone
            types = [
                type_
                for type_ in self._standalone
                if type_ not in self.held and running[type_] < limits.get(type_, limit)
            ]
            job = await self._queue.claim_standalone(self._owner, types, self._still_here()) if types else None
            if job is None:
                return
            self._begin(job, borrows=False)

    def _begin(self, job: JobRow, *, borrows: bool) -> None:
        shepherd = self._tasks.spawn(self._shepherd(job, borrows=borrows), name=f"job {job.id}")
        self._shepherds[shepherd] = job
        shepherd.add_done_callback(self._freed)

    def _open_types(self) -> list[str]:
        """Those of the engine that may run and whose own limit leaves room."""
        running = self._running_by_type()
        limits = self._limits.max_concurrent_by_type
        return [
            type_
            for type_ in self._kinds
            if type_ not in self.held and running[type_] < limits.get(type_, running[type_] + 1)
        ]

    def _running_by_type(self) -> Counter[str]:
        return Counter(job.type for job in self._shepherds.values())

    def _at_engine(self) -> int:
        return sum(job.type in self._kinds for job in self._shepherds.values())

    def _still_here(self) -> list[str]:
        """Given back, maybe, with a run that is not yet over."""
        return [shepherded.id for shepherded in self._shepherds.values()]

    def _freed(self, shepherd: asyncio.Task[None]) -> None:
        del self._shepherds[shepherd]
        self._wake.set()

    async def _shepherd(self, job: JobRow, *, borrows: bool) -> None:
        """One attempt from claim to end: runs it, keeps its lease, writes how it ended."""
        if self._stopping:
            await self._release(job, "the server stops")
            return
        note("started", job)
        with ExitStack() as stack:
            try:
                attempt = await self._attempt(job)
                await asyncio.to_thread(stack.enter_context, RunLock(attempt.run_dir))
            except RunIsLocked:
                await self._release(job, "an earlier attempt is still alive", rest_s=REST_S)
            except DatabaseUnavailable as error:
                log.error("%s cannot begin: %s", job.id, error)
            except OSError as error:
                if is_disk_full(error):
                    await self._release(job, _full(self._layout.runs), rest_s=REST_S, shown=True)
                else:
                    await self._finish(job, "failed", error=str(error))
            except ControlError as error:
                await self._finish(job, "failed", error=str(error))
            else:
                await self._tend(job, attempt, borrows=borrows)

    async def _tend(self, job: JobRow, attempt: Attempt, *, borrows: bool) -> None:
        over = asyncio.Event()
        run = asyncio.create_task(self._run(job, attempt, borrows=borrows), name=f"run of {job.id}")
        watch = asyncio.create_task(self._watch(attempt, over), name=f"lease of {job.id}")
        self._running[job.id] = _Running(job.type, attempt, run)
        try:
            await asyncio.wait({run, watch}, return_when=asyncio.FIRST_COMPLETED)
            attempt.stopped = attempt.stopped or not run.done()
            run.cancel()
            over.set()
            await asyncio.wait({run, watch})
        finally:
            watch.cancel()
            run.cancel()
            self._running.pop(job.id, None)
        try:
            await self._settle(job, attempt, run)
        except (DatabaseUnavailable, SQLAlchemyError):
            log.exception("cannot write the end of %s: it will be taken up again", job.id)

    async def _run(self, job: JobRow, attempt: Attempt, *, borrows: bool) -> dict[str, Any]:
        ids.job_id.set(job.id)  # in the run's own task: its log lines and requests carry these
        ids.request_id.set(job.request_id)
        ids.key_id.set(job.created_by)
        if borrows:
            await self._lender.switch_to(job.model_id, f"job {job.id}")
        if not isinstance(attempt, EngineAttempt):
            return await self._standalone[job.type].run(attempt)
        result = await self._kinds[job.type].run(attempt)
        used = await self._meter(job.id) if self._meter else None
        return result if used is None else result | {"energy": used}

    async def _settle(self, job: JobRow, attempt: Attempt, run: asyncio.Task[dict[str, Any]]) -> None:
        """Writes the end of a run; where the row is not this worker's any more, whoever took it has the last word."""
        try:
            if run.cancelled():
                if self._stopping or attempt.stopped:
                    await self._let_go(job, attempt)
                else:
                    await self._finish(job, "failed", error="the run ended itself")
                return
            result = run.result()
            await attempt.flush()
            await self._finish(job, "done", result=result)
        except ModelNotServed as error:
            self._beside.forget(job.model_id)
            await self._release(job, str(error), rest_s=REST_S)
        except (GatewayUnavailable, HubUnavailable, JobPaused) as error:
            await self._set_back(job, attempt, error)
        except JobCancelled:
            await self._let_go(job, attempt)
        except (DatabaseUnavailable, SQLAlchemyError):
            raise
        except ControlError as error:
            await self._finish(job, "failed", error=str(error))
        except Exception as error:
            # The job boundary: a defect of one job ends that job alone.
            if isinstance(error, OSError) and is_disk_full(error):
                await self._set_back(job, attempt, JobPaused(_full(error.filename or attempt.run_dir)))
                return
            log.exception("job %s crashed", job.id)
            await self._finish(job, "failed", error=f"{type(error).__name__}: {error}"[:500])

    async def _set_back(self, job: JobRow, attempt: Attempt, error: ControlError) -> None:
        """What can pass: the job rests and is tried again, the longer the oftener it got nowhere.

        What waits for a person is never given up, and rests no longer than a minute or so.
        """
        setbacks = 1 if attempt.got_somewhere else job.setbacks + 1
        paused = isinstance(error, JobPaused)
        if paused:
            setbacks = min(setbacks, LONGEST_PAUSE_SETBACKS)
        elif setbacks > self._limits.retries:
            await self._finish(job, "failed", error=f"given up after {setbacks} attempts that got nowhere: {error}")
            return
        pause_s = rest_s(setbacks, random.random())  # noqa: S311  # jitter
        await self._release(job, str(error), rest_s=pause_s, setbacks=setbacks, shown=paused)

    async def _watch(self, attempt: Attempt, over: asyncio.Event) -> None:
        """Keeps the lease until `over`; returns before when the job is, or must be thought, another's.

        A lease that could not be renewed for its whole length may have been taken over: the run has to end by then.
        It is not cancelled but told, so that no statement is cut off in the database with a lock in its hands.
        """
        renewed_s = time.monotonic()
        while not await _is_set_within(over, min(self._limits.poll_s, self._limits.lease_s / 3)):
            try:
                if not await self._queue.heartbeat(attempt.job_id, self._owner):
                    return
                renewed_s = time.monotonic()
            except (DatabaseUnavailable, SQLAlchemyError) as error:
                log.warning("no heartbeat for %s: %s", attempt.job_id, error)
                if time.monotonic() - renewed_s >= self._limits.lease_s:
                    log.error("%s: its lease has run out, the run is stopped", attempt.job_id)
                    attempt.lapsed = True
                    return

    async def _attempt(self, job: JobRow) -> Attempt:
        """Raises NotFound when the job's model is not there any more, OSError when there is no place for its files."""
        if job.type in self._standalone:
            run_dir = await self._run_dir(job)
            return Attempt(
                job_id=job.id, config=job.config, run_dir=run_dir, queue=self._queue, owner=self._owner
            )  # fmt: skip
        model = await self._models.get(job.model_id)
        if model.digest != job.model_digest:
            raise NotFound(f"{job.model_id} has other content now than when the job was made ({job.model_digest})")
        return EngineAttempt(
            job_id=job.id,
            model=ModelRef(id=model.id, path=model.path, digest=model.digest),
            config=job.config,
            run_dir=await self._run_dir(job),
            datasets_dir=self._layout.datasets,
            engine=self._engine,
            batch_items=self._limits.batch_items,
            batch_window_items=self._limits.window.items((model.engine or {}).get("max_num_seqs")),
            shards=self._shards,
            queue=self._queue,
            owner=self._owner,
        )

    async def _run_dir(self, job: JobRow) -> Path:
        run_dir = self._layout.runs / job.type / job.id
        await asyncio.to_thread(run_dir.mkdir, parents=True, exist_ok=True)
        return run_dir

    async def _finish(
        self, job: JobRow, status: Status, *, result: dict[str, Any] | None = None, error: str | None = None
    ) -> None:
        ended = await self._queue.finish(job.id, self._owner, status, result=result, error=error)
        if ended is None:
            await self._queue.end_attempt(job.id, job.attempt, "cancelled")
        else:
            note(status, ended, **({"error": error} if error else {}))

    async def _release(
        self, job: JobRow, reason: str, *, rest_s: float = 0.0, setbacks: int | None = None, shown: bool = False
    ) -> None:
        released = await self._queue.release(job.id, self._owner, reason, rest_s=rest_s, setbacks=setbacks, shown=shown)
        if released is not None:
            note("released", released, reason=reason)

    async def _let_go(self, job: JobRow, attempt: Attempt) -> None:
        """Of a run that was stopped: its row was changed by somebody else, unless it only lost its lease."""
        if self._stopping:
            await self._release(job, "the server stops")
        elif attempt.held is not None:
            await self._release(job, f"paused: {attempt.held}", shown=True)
        elif attempt.lapsed:
            await self._release(job, "the database was away for longer than the lease")
        else:
            await self._queue.end_attempt(job.id, job.attempt, "cancelled")


def _full(where: object) -> str:
    return f"the disk of {where} is full: the job goes on when there is space"


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
