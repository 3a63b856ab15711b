"""Job runners on their own: each with its own database connections, as if in a process of its own, and no HTTP."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

from control.clock import utc_now
from control.database.database import Database, url_of
from control.database.tables import ActiveModelRow, ModelRow
from control.jobs.attempt import AttemptBuilder
from control.jobs.engine_borrow import EngineBorrows
from control.jobs.limits import RunnerLimits, Window
from control.jobs.queue import JobQueue
from control.jobs.reaper import Reaper
from control.jobs.runner import JobRunner
from control.jobs.spread_engine import JobGateway
from control.jobs.submission import JobSubmission, NewJob
from control.models.placed_folders import PlacedFolders
from control.models.repository import ModelRepository
from control.shards.book import ShardBook
from stepserve.contract import AskRequest, AskResult, BatchRequest, BatchResult
from stepserve.jobs.ports import JobContext, JobRequest
from tests.integration.control_plane import settings_of

_RequestModel = type[JobRequest]


class CountingKind:
    """Counts how often each job ran, and how many of them ran at the same time as themselves."""

    type: ClassVar[str] = "count"
    route: ClassVar[str] = "/count"
    request_model: ClassVar[_RequestModel] = JobRequest

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.inside: Counter[str] = Counter()
        self.most_at_once = 0
        self.may_go = asyncio.Event()
        self.may_go.set()

    def check(self, request: JobRequest, datasets_dir: Path) -> dict[str, Any]:
        return {}

    def identity(self, config: dict[str, Any]) -> dict[str, Any] | None:
        return None

    async def run(self, context: JobContext) -> dict[str, Any]:
        self.runs[context.job_id] += 1
        self.inside[context.job_id] += 1
        self.most_at_once = max(self.most_at_once, self.inside[context.job_id])
        try:
            await self.may_go.wait()
            await context.report(1, 1)
        finally:
            self.inside[context.job_id] -= 1
        return {}


class Nobody:
    """An engine, a switcher and a loader that are never asked, and a fleet without members."""

    has_members = False

    def serving(self, model_id: str, digest: str) -> list[JobGateway]:
        return []

    async def ask(self, request: AskRequest) -> AskResult:
        raise AssertionError("nothing is asked here")

    async def generate(self, request: BatchRequest) -> BatchResult:
        raise AssertionError("no job of these asks the engine")

    async def load_beside(self, model_id: str) -> None:
        raise AssertionError("no job of these has another model")

    async def switch_to(self, model_id: str, cause: str) -> None:
        raise AssertionError("no job of these borrows the engine")


class MovedClock:
    """The wall clock, off by as much as it was moved."""

    def __init__(self) -> None:
        self.off = timedelta()

    def __call__(self) -> datetime:
        return utc_now() + self.off


class WorkerPool:
    """`hire` starts another runner; all are stopped at the end."""

    def __init__(self, base: Path, stack: AsyncExitStack, clock: Callable[[], datetime]) -> None:
        self._settings = settings_of(base)
        self._stack = stack
        self._clock = clock
        self.kind = CountingKind()
        self.queue = self._new_queue()
        self.submission = JobSubmission(self._database(), 100_000, clock)

    async def prepare(self) -> None:
        self._settings.layout.create()
        database = self._database()
        await database.migrate()
        async with database.transaction() as session:
            session.add(
                ModelRow(
                    id="a", path="/a", source="test", tags=[], digest="sha256:aa", architecture="x", size_bytes=1,
                    created_at=utc_now(),
                )
            )  # fmt: skip
            await session.flush()
            session.add(ActiveModelRow(singleton=1, model_id="a", since=utc_now()))

    async def job(self) -> str:
        job, _ = await self.submission.create(NewJob("count", "a", {}))
        return job.id

    async def start_runner(self, lease_s: float = 15.0, jobs: int = 2) -> JobRunner:
        database = self._database()
        queue = self._new_queue(lease_s)
        limits = RunnerLimits(
            max_concurrent_jobs=jobs, batch_items=1, window=Window(1, 1), lease_s=lease_s, poll_s=0.05
        )
        runner = JobRunner(
            kinds={"count": self.kind},
            standalone={},
            queue=queue,
            attempts=AttemptBuilder(
                queue=queue,
                models=ModelRepository(database, PlacedFolders(self._settings.layout.models, database)),
                engine=Nobody(),
                fleet=Nobody(),
                layout=self._settings.layout,
                limits=limits,
                shards=ShardBook(database),
                loader=Nobody(),
            ),
            switcher=Nobody(),
            reaper=Reaper(queue, EngineBorrows(database), Nobody(), lease_s),
            loader=Nobody(),
            limits=limits,
        )
        self._stack.push_async_callback(runner.stop)
        await runner.start()
        return runner

    def _new_queue(self, lease_s: float = 15.0) -> JobQueue:
        return JobQueue(self._database(), lease_s, self._clock)

    def _database(self) -> Database:
        database = Database(url_of(self._settings))
        self._stack.push_async_callback(database.close)
        return database


@asynccontextmanager
async def worker_pool(base: Path, clock: Callable[[], datetime] = utc_now) -> AsyncIterator[WorkerPool]:
    async with AsyncExitStack() as stack:
        made = WorkerPool(base, stack, clock)
        await made.prepare()
        yield made
