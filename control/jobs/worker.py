"""The worker: runs the queue's jobs in this process, as many at a time as allowed."""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from sqlalchemy.exc import SQLAlchemyError

from control.database.tables import JobRow
from control.errors import DatabaseUnavailable
from control.jobs.beside import Beside, BesideLoader
from control.jobs.caretaker import Caretaker
from control.jobs.context import JobMeter
from control.jobs.ids import new_owner
from control.jobs.limits import WorkerLimits
from control.jobs.loans import EngineLender
from control.jobs.queue import JobQueue
from control.jobs.shepherd import Shepherd
from control.jobs.waiting import WorkerView
from control.models.repository import ModelRepository
from control.tasks import Tasks, is_set_within
from stepserve.jobs.ports import BatchEngine, JobKind, ShardLedger, StandaloneKind
from stepserve.paths import Layout

log = logging.getLogger(__name__)

STOP_GRACE_S = 2.0


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
        self._caretaker = caretaker
        self._limits = limits
        self._owner = new_owner()
        self._wake = asyncio.Event()
        self._beside = Beside(beside, self._wake.set)
        self._tasks = Tasks()
        self._loop: asyncio.Task[None] | None = None
        self._shepherd = Shepherd(
            kinds=kinds,
            standalone=self._standalone,
            queue=queue,
            models=models,
            engine=engine,
            lender=lender,
            beside=self._beside,
            layout=layout,
            limits=limits,
            shards=shards,
            meter=meter,
            owner=self._owner,
        )
        self._tended: dict[asyncio.Task[None], JobRow] = {}
        self._model_changed = False
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
        self._shepherd.hold(reasons)
        if freed:
            self.wake()

    @property
    def view(self) -> WorkerView:
        limits = self._limits
        return WorkerView(
            held=self.held,
            running=self._running_by_type(),
            limits=limits.max_concurrent_by_type,
            engine_running=self._at_engine(),
            engine_places=limits.max_concurrent_jobs,
            standalone_places=limits.max_standalone,
            loading=self._beside.loading,
            ready=self._beside.ready,
            refused=self._beside.refused,
        )

    def wake(self, *, model_changed: bool = False) -> None:
        """There may be something to claim."""
        self._model_changed = self._model_changed or model_changed
        self._wake.set()

    def interrupt(self, job_id: str) -> None:
        """Stops the run of a job whose row is cancelled already, sooner than it would notice itself."""
        self._shepherd.interrupt(job_id)

    async def stop(self) -> None:
        """Ends every run and gives its job back to the queue; a run that will not end keeps nobody waiting."""
        self._shepherd.stopping = True
        self._wake.set()
        if self._loop is not None:
            await asyncio.wait({self._loop})
        self._shepherd.interrupt_all()
        if self._tended:
            await asyncio.wait(self._tended, timeout=STOP_GRACE_S)
        await self._shepherd.give_up()
        await self._caretaker.close()
        await self._beside.close()
        await self._tasks.close()

    async def _work(self) -> None:
        while not self._shepherd.stopping:
            self._wake.clear()
            try:
                await self._caretaker.look_around(self._owner, {job.id for job in self._tended.values()})
                if self._model_changed:
                    self._model_changed = False
                    self._beside.refused.clear()
                    self._beside.ready.clear()  # asked for again, which costs nothing where it is still so
                    await self._queue.end_rests()
                await self._fill()
            except (DatabaseUnavailable, SQLAlchemyError) as error:
                log.error("cannot look after the queue: %s", error)
            except Exception:
                # A supervisor loop: a defect here must not end all jobs to come.
                log.exception("the worker stumbled")
            await is_set_within(self._wake, self._limits.poll_s)

    async def _fill(self) -> None:
        """Claims jobs until every place is taken or none is left.

        A model that jobs wait for is loaded beside the active one where there is room; where there is none the engine
        is borrowed, in a quiet moment, by a job that may.
        """
        await self._fill_standalone()
        while not self._shepherd.stopping and (at_engine := self._at_engine()) < self._limits.max_concurrent_jobs:
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
        while not self._shepherd.stopping:
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
        tending = self._tasks.spawn(self._shepherd.tend(job, borrows=borrows), name=f"job {job.id}")
        self._tended[tending] = job
        tending.add_done_callback(self._freed)

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
        return Counter(job.type for job in self._tended.values())

    def _at_engine(self) -> int:
        return sum(job.type in self._kinds for job in self._tended.values())

    def _still_here(self) -> list[str]:
        """Given back, maybe, with a run that is not yet over."""
        return [job.id for job in self._tended.values()]

    def _freed(self, tending: asyncio.Task[None]) -> None:
        del self._tended[tending]
        self._wake.set()
