"""Picks the next job to run: which types have a free place, and on which model."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from control.database.tables import JobRow
from control.jobs.limits import RunnerLimits
from control.jobs.queue import JobQueue
from control.jobs.side_loader import SideLoader
from control.jobs.waiting import RunnerView


@dataclass(frozen=True, slots=True)
class Picked:
    """`borrows`: the engine has to be switched to the job's model before it runs."""

    job: JobRow
    borrows: bool = False


class JobPicker:
    """`engine_types` run on a model in the engine, `standalone_types` without one, in places of their own.

    `held`: types that may not run, each with the reason.
    """

    def __init__(
        self,
        *,
        queue: JobQueue,
        owner: str,
        side_loader: SideLoader,
        limits: RunnerLimits,
        engine_types: Collection[str],
        standalone_types: Collection[str],
    ) -> None:
        self._queue = queue
        self._owner = owner
        self._side_loader = side_loader
        self._engine_types = engine_types
        self._standalone_types = standalone_types
        self.limits = limits
        self.held: Mapping[str, str] = {}

    def view(self, running: Collection[JobRow]) -> RunnerView:
        return RunnerView(
            held=self.held,
            running=Counter(job.type for job in running),
            limits=self.limits.max_concurrent_by_type,
            engine_running=self._at_engine(running),
            engine_places=self.limits.max_concurrent_jobs,
            standalone_places=self.limits.max_standalone,
            loading=self._side_loader.loading,
            ready=self._side_loader.ready,
            refused=self._side_loader.refused,
        )

    async def next_standalone(self, running: Collection[JobRow]) -> Picked | None:
        """A job now leased to the owner, or None while none may start. `running`: those of this owner."""
        types = self._open_types(self._standalone_types, running, self.limits.max_standalone)
        job = await self._queue.take_standalone(self._owner, types, _ids(running)) if types else None
        return None if job is None else Picked(job)

    async def next_on_engine(self, running: Collection[JobRow]) -> Picked | None:
        """As `next_standalone`.

        A model that jobs wait for is loaded beside the active one where there is room; where there is none the
        engine is borrowed, while no other job runs, by a job that may.
        """
        at_engine = self._at_engine(running)
        if at_engine >= self.limits.max_concurrent_jobs:
            return None
        types = self._open_types(self._engine_types, running, None)
        job = await self._queue.take(self._owner, types, _ids(running), self._side_loader.ready)
        if job is not None:
            return Picked(job)
        waiting = await self._queue.waiting_models(types)
        if self._side_loader.opens_one_of(waiting) or at_engine:
            return None
        job = await self._queue.take_borrowing(self._owner, types, waiting)
        return None if job is None else Picked(job, borrows=True)

    def _open_types(self, types: Collection[str], running: Collection[JobRow], limit: int | None) -> list[str]:
        """Those that may run and have a free place; `limit` is for types without a limit of their own."""
        counts = Counter(job.type for job in running)
        limits = self.limits.max_concurrent_by_type
        return [
            type_
            for type_ in types
            if type_ not in self.held and ((most := limits.get(type_, limit)) is None or counts[type_] < most)
        ]

    def _at_engine(self, running: Collection[JobRow]) -> int:
        return sum(job.type in self._engine_types for job in running)


def _ids(running: Collection[JobRow]) -> list[str]:
    """Not to be taken: given back, maybe, with a run that is not yet over."""
    return [job.id for job in running]
