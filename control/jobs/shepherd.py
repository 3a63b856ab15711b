"""The shepherd: takes a claimed job from its claim to its end."""

import asyncio
import logging
import random
import re
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from control.database.tables import UNREADABLE, JobRow
from control.errors import (
    BadJob,
    DatabaseUnavailable,
    GatewayUnavailable,
    HubUnavailable,
    JobCancelled,
    JobPaused,
    ModelNotServed,
    NotFound,
    ServiceError,
)
from control.jobs.backoff import rest_s
from control.jobs.beside import Beside
from control.jobs.context import Attempt, EngineAttempt, JobMeter
from control.jobs.events import note
from control.jobs.limits import WorkerLimits
from control.jobs.loans import EngineLender
from control.jobs.queue import JobQueue
from control.jobs.run_lock import RunIsLocked, RunLock
from control.jobs.states import Status
from control.models.repository import ModelRepository
from control.tasks import is_set_within
from stepserve import request_id as ids
from stepserve.contract import ModelRef
from stepserve.full_disk import is_disk_full
from stepserve.jobs.ports import BatchEngine, JobKind, ShardLedger, StandaloneKind
from stepserve.paths import Layout

log = logging.getLogger(__name__)

LONGEST_PAUSE_SETBACKS = 5
_IS_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")


@dataclass(frozen=True, slots=True)
class _Running:
    type: str
    attempt: Attempt
    run: asyncio.Task[dict[str, Any]]


class Shepherd:
    """Runs jobs for the lease owner `owner`, keeps their leases and writes how they ended.

    Once `stopping` is set, what does not end by itself is given back because the server stops.
    """

    def __init__(
        self,
        *,
        kinds: Mapping[str, JobKind],
        standalone: Mapping[str, StandaloneKind],
        queue: JobQueue,
        models: ModelRepository,
        engine: BatchEngine,
        lender: EngineLender,
        beside: Beside,
        layout: Layout,
        limits: WorkerLimits,
        shards: ShardLedger,
        meter: JobMeter | None,
        owner: str,
    ) -> None:
        self._kinds = kinds
        self._standalone = standalone
        self._queue = queue
        self._models = models
        self._engine = engine
        self._lender = lender
        self._beside = beside
        self._layout = layout
        self._limits = limits
        self._shards = shards
        self._meter = meter
        self._owner = owner
        self._running: dict[str, _Running] = {}
        self.stopping = False

    def hold(self, reasons: Mapping[str, str]) -> None:
        """Gives the running jobs of these types back to the queue, with what they have and the reason."""
        for running in self._running.values():
            reason = reasons.get(running.type)
            if reason is not None and not running.attempt.stopped:
                running.attempt.held = reason
                running.attempt.stopped = True
                running.run.cancel()

    def interrupt(self, job_id: str) -> None:
        """Stops the run of a job whose row is cancelled already, sooner than it would notice itself."""
        running = self._running.get(job_id)
        if running is not None:
            running.attempt.stopped = True
            running.run.cancel()

    def interrupt_all(self) -> None:
        for job_id in list(self._running):
            self.interrupt(job_id)

    async def give_up(self) -> None:
        """Gives back the jobs whose runs will not end."""
        for job_id in list(self._running):
            log.error("%s does not stop, its lease is given up", job_id)
            await self._queue.release(job_id, self._owner, "the server stops")

    async def tend(self, job: JobRow, *, borrows: bool) -> None:
        """One attempt from claim to end: runs it, keeps its lease, writes how it ended."""
        if self.stopping:
            await self._release(job, "the server stops")
            return
        note("started", job)
        with ExitStack() as stack:
            try:
                attempt = await self._attempt(job)
                await asyncio.to_thread(stack.enter_context, RunLock(attempt.run_dir))
            except RunIsLocked:
                await self._release(job, "an earlier attempt is still alive", rest_s=self._limits.rest_s)
            except (DatabaseUnavailable, SQLAlchemyError) as error:
                log.error("%s cannot begin: %s", job.id, error)
            except OSError as error:
                if is_disk_full(error):
                    await self._release(job, _full(self._layout.runs), rest_s=self._limits.rest_s, shown=True)
                else:
                    await self._finish(job, "failed", error=str(error))
            except ServiceError as error:
                await self._finish(job, "failed", error=str(error))
            except Exception as error:
                # The job boundary begins here: a row that cannot be begun would be taken up again for ever.
                log.exception("job %s cannot begin", job.id)
                await self._finish(job, "failed", error=f"{type(error).__name__}: {error}"[:500])
            else:
                await self._run_to_its_end(job, attempt, borrows=borrows)

    async def _run_to_its_end(self, job: JobRow, attempt: Attempt, *, borrows: bool) -> None:
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
        used = await attempt.used()
        return result | {name: value for name, value in used.shown().items() if value is not None}

    async def _settle(self, job: JobRow, attempt: Attempt, run: asyncio.Task[dict[str, Any]]) -> None:
        """Writes the end of a run; where the row is not this worker's any more, whoever took it has the last word."""
        try:
            if run.cancelled():
                if self.stopping or attempt.stopped:
                    await self._let_go(job, attempt)
                else:
                    await self._finish(job, "failed", error="the run ended itself")
                return
            result = run.result()
            await attempt.flush()
            await self._finish(job, "done", result=result)
        except ModelNotServed as error:
            self._beside.forget(job.model_id)
            await self._release(job, str(error), rest_s=self._limits.rest_s)
        except (GatewayUnavailable, HubUnavailable, JobPaused) as error:
            await self._set_back(job, attempt, error)
        except JobCancelled:
            await self._let_go(job, attempt)
        except (DatabaseUnavailable, SQLAlchemyError):
            raise
        except ServiceError as error:
            await self._finish(job, "failed", error=str(error))
        except Exception as error:
            # The job boundary: a defect of one job ends that job alone.
            if isinstance(error, OSError) and is_disk_full(error):
                await self._set_back(job, attempt, JobPaused(_full(error.filename or attempt.run_dir)))
                return
            log.exception("job %s crashed", job.id)
            await self._finish(job, "failed", error=f"{type(error).__name__}: {error}"[:500])

    async def _set_back(self, job: JobRow, attempt: Attempt, error: ServiceError) -> None:
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
        pause_s = rest_s(setbacks, random.random(), self._limits.rest_s)  # noqa: S311  # jitter
        await self._release(job, str(error), rest_s=pause_s, setbacks=setbacks, shown=paused)

    async def _watch(self, attempt: Attempt, over: asyncio.Event) -> None:
        """Keeps the lease until `over`; returns before when the job is, or must be thought, another's.

        A lease that could not be renewed for its whole length may have been taken over: the run has to end by then.
        It is not cancelled but told, so that no statement is cut off in the database with a lock in its hands.
        """
        renewed_s = time.monotonic()
        while not await is_set_within(over, min(self._limits.poll_s, self._limits.lease_s / 3)):
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
        """Raises NotFound when the job's model is not there any more, OSError when there is no place for its files,
        BadJob for a row that somebody wrote who is none of ours.
        """
        if not isinstance(job.config, dict) or UNREADABLE in job.config:
            raise BadJob(f"its config in the database is no JSON object: {job.config!r}")
        if not _IS_ID.fullmatch(job.id):
            raise BadJob("its id is none that a job can have, since its files have a folder of that name")
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
            meter=self._meter,
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
        if self.stopping:
            await self._release(job, "the server stops")
        elif attempt.held is not None:
            await self._release(job, f"paused: {attempt.held}", shown=True)
        elif attempt.lapsed:
            await self._release(job, "the database was away for longer than the lease")
        else:
            await self._queue.end_attempt(job.id, job.attempt, "cancelled")


def _full(where: object) -> str:
    return f"the disk of {where} is full: the job goes on when there is space"
