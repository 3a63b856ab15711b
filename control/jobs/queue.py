"""SQL of jobs. Every change of state is one conditional UPDATE: whoever comes second changes nothing and is told so."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Update, and_, case, exists, func, literal, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from control.access.view import EVERYTHING, View
from control.clock import Clock, utc_now
from control.database.count_tables import JobCountRow, n_jobs
from control.database.database import Database
from control.database.tables import (
    NO_DIGEST,
    UNREADABLE_TIME,
    ActiveModelRow,
    EngineBorrowRow,
    JobAttemptRow,
    JobRow,
    ModelRow,
)
from control.errors import Conflict, NotFound
from control.jobs.ending import (
    FROZEN,
    Cancelled,
    Done,
    Ending,
    Failed,
    Lost,
    Requeued,
    attempt_outcome,
    believable_until,
)
from control.jobs.events import Changes, note, note_end
from control.jobs.leases import Lease
from control.jobs.states import LIVE, OVER, RETRYABLE, STATUSES, AttemptOutcome, Status

_NEWEST_FIRST = (JobRow.created_at.desc(), JobRow.id.desc())


@dataclass(frozen=True, slots=True)
class Census:
    """How many jobs there are by type and status, and how long the oldest pending one has waited."""

    counts: dict[tuple[str, str], int]
    oldest_pending_s: float


class JobQueue:
    """Every method is one transaction. `changes` is told of every change made here.

    A lease is made by `take…` and renewed by heartbeat and progress; `end` gives it up. Whether one is dead is not read
    off the wall clock but seen by watching it (control.jobs.leases).
    """

    def __init__(self, database: Database, lease_s: float, clock: Clock = utc_now) -> None:
        self._database = database
        self._lease = timedelta(seconds=lease_s)
        self._clock = clock
        self.changes = Changes()

    async def get(self, job_id: str, job_type: str | None = None, *, view: View = EVERYTHING) -> JobRow:
        """Raises NotFound, for a job of another type or that `view` does not see too."""
        async with self._database.transaction() as session:
            job = await session.get(JobRow, job_id)
        if job is None or job_type not in {None, job.type} or not view.sees(job.created_by):
            raise NotFound(f"there is no {job_type + ' ' if job_type else ''}job {job_id!r}")
        return job

    async def attempts(self, job_id: str) -> Sequence[JobAttemptRow]:
        """Oldest first."""
        statement = select(JobAttemptRow).where(JobAttemptRow.job_id == job_id).order_by(JobAttemptRow.attempt)
        async with self._database.transaction() as session:
            return (await session.scalars(statement)).all()

    async def newest_first(
        self,
        job_type: str | None,
        status: Status | None,
        limit: int,
        older_than: JobRow | None = None,
        *,
        view: View = EVERYTHING,
    ) -> Sequence[JobRow]:
        wanted = _wanted(job_type, status, "", view)
        statement = select(JobRow).where(wanted).order_by(*_NEWEST_FIRST).limit(limit)
        if older_than is not None:
            at, same = JobRow.created_at < older_than.created_at, JobRow.created_at == older_than.created_at
            statement = statement.where(or_(at, and_(same, JobRow.id < older_than.id)))
        async with self._database.transaction() as session:
            return (await session.scalars(statement)).all()

    async def page(
        self,
        job_type: str | None,
        status: Status | None,
        text: str,
        offset: int,
        limit: int,
        *,
        view: View = EVERYTHING,
    ) -> tuple[Sequence[JobRow], int]:
        """Newest first, and how many there are in all. `text`: in the id, or in that of the model."""
        wanted = _wanted(job_type, status, text, view)
        statement = select(JobRow).where(wanted).order_by(*_NEWEST_FIRST).offset(offset).limit(limit)
        counted = n_jobs(*_counted(job_type, status, view))
        if text:
            counted = select(func.count()).select_from(JobRow).where(wanted)
        async with self._database.transaction() as session:
            rows = (await session.scalars(statement)).all()
            total = await session.scalar(counted)
        return rows, total or 0

    async def ids(self, job_type: str, view: View) -> set[str]:
        """Of all jobs of a type that `view` sees."""
        statement = select(JobRow.id).where(JobRow.type == job_type, view.rows(JobRow.created_by))
        async with self._database.transaction() as session:
            return set((await session.scalars(statement)).all())

    async def unfinished(self) -> Sequence[tuple[str, dict[str, Any]]]:
        """Ids and configs of all jobs that are not over, oldest first."""
        statement = select(JobRow.id, JobRow.config).where(JobRow.status.in_(LIVE)).order_by(JobRow.created_at)
        async with self._database.transaction() as session:
            return [(job_id, config) for job_id, config in await session.execute(statement)]

    async def stats(self, view: View = EVERYTHING, job_type: str | None = None) -> dict[str, int]:
        """Jobs by status, of one type or of all, and how many were done in the last hour."""
        hour_ago = self._clock() - timedelta(hours=1)
        done = and_(_wanted(job_type, "done", "", view), JobRow.finished_at >= hour_ago)
        counts = n_jobs(*_counted(job_type, None, view)).add_columns(JobCountRow.status).group_by(JobCountRow.status)
        async with self._database.transaction() as session:
            by_status = {status: number for number, status in await session.execute(counts)}
            recent = await session.scalar(select(func.count()).where(done))
        return {status: by_status.get(status, 0) for status in STATUSES} | {"jobs_last_hour": recent or 0}

    async def census(self) -> "Census":
        kinds = (JobCountRow.type, JobCountRow.status)
        counts = n_jobs(JobCountRow.n_jobs > 0).add_columns(*kinds).group_by(*kinds)
        oldest = select(func.min(JobRow.created_at)).where(JobRow.status == "pending")
        async with self._database.transaction() as session:
            rows = (await session.execute(counts)).all()
            since = await session.scalar(oldest)
        age_s = max(0.0, (self._clock() - since).total_seconds()) if since else 0.0
        return Census({(str(job_type), str(status)): number for number, job_type, status in rows}, age_s)

    async def take(
        self, owner: str, types: Collection[str], besides: Collection[str] = (), loaded: Collection[str] = ()
    ) -> JobRow | None:
        """The first pending job of the active model or one of the models `loaded`, now leased to `owner`.

        None of the ids `besides`. While a job has borrowed the engine, that one alone.
        """
        async with self._database.transaction() as session:
            here = or_(JobRow.model_id.in_(select(ActiveModelRow.model_id)), JobRow.model_id.in_(loaded))
            allowed = or_(~exists(select(EngineBorrowRow.singleton)), JobRow.id.in_(select(EngineBorrowRow.job_id)))
            return await self._lease_first(
                session, owner, and_(self._ready(types), here, allowed, JobRow.id.not_in(besides))
            )

    async def waiting_models(self, types: Collection[str], limit: int = 8) -> Sequence[str]:
        """The registered models, but the active one, that pending jobs are for; those of the first jobs first."""
        async with self._database.transaction() as session:
            first = (
                select(JobRow.model_id)
                .where(
                    self._ready(types),
                    JobRow.model_id.in_(select(ModelRow.id)),
                    JobRow.model_id.not_in(select(ActiveModelRow.model_id)),
                )
                .group_by(JobRow.model_id)
                .order_by(func.max(JobRow.priority).desc(), func.min(JobRow.created_at))
                .limit(limit)
            )
            return (await session.scalars(first)).all()

    async def has_live(self, model_id: str) -> bool:
        """Whether jobs for that model wait or run."""
        live = select(JobRow.id).where(JobRow.model_id == model_id, JobRow.status.in_(LIVE))
        async with self._database.transaction() as session:
            return await session.scalar(live.limit(1)) is not None

    async def take_borrowing(self, owner: str, types: Collection[str], models: Collection[str]) -> JobRow | None:
        """The first pending job, for one of these models, that may borrow the engine, now leased to `owner`, and the
        borrow written down.

        None too while any job runs or the engine is borrowed already.
        """
        async with self._database.alone() as session:
            running = and_(JobRow.status == "running", JobRow.model_digest != NO_DIGEST)
            busy = or_(exists(select(JobRow.id).where(running)), exists(select(EngineBorrowRow.singleton)))
            if await session.scalar(select(busy)):
                return None
            active = await session.scalar(select(ActiveModelRow.model_id))
            wish = and_(JobRow.when_inactive == "switch", JobRow.model_id.in_(models))
            job = await self._lease_first(
                session, owner, and_(self._ready(types), wish, JobRow.model_id != (active or ""))
            )
            if job is not None:
                borrow = EngineBorrowRow(job_id=job.id, model_id=job.model_id, return_to=active, since=self._clock())
                session.add(borrow)
            return job

    async def borrowed_by(self) -> str | None:
        """The job that has borrowed the engine."""
        async with self._database.transaction() as session:
            return await session.scalar(select(EngineBorrowRow.job_id))

    async def take_standalone(self, owner: str, types: Collection[str], besides: Collection[str] = ()) -> JobRow | None:
        """The first pending job of types that need no model, now leased to `owner`; none of the ids `besides`."""
        async with self._database.transaction() as session:
            return await self._lease_first(session, owner, and_(self._ready(types), JobRow.id.not_in(besides)))

    def _ready(self, types: Collection[str]) -> ColumnElement[bool]:
        now = self._clock()
        backed_off = or_(
            JobRow.not_before.is_(None), JobRow.not_before <= now, JobRow.not_before > believable_until(now)
        )  # fmt: skip
        return and_(JobRow.status == "pending", JobRow.type.in_(types), backed_off)

    async def _lease_first(self, session: AsyncSession, owner: str, which: ColumnElement[bool]) -> JobRow | None:
        """SKIP LOCKED on PostgreSQL; SQLite has one writer at a time and no such words."""
        now = self._clock()
        first = select(JobRow.id).where(which).order_by(JobRow.priority.desc(), JobRow.created_at, JobRow.id).limit(1)
        candidate = first.with_for_update(skip_locked=True, of=JobRow).scalar_subquery()
        statement = (
            update(JobRow)
            .where(JobRow.id == candidate, JobRow.status == "pending")
            .values(
                status="running",
                lease_owner=owner,
                lease_expires_at=now + self._lease,
                attempt=JobRow.attempt + 1,
                not_before=None,
                progress_rate_per_s=None,
                started_at=_not_before(JobRow.created_at, now),
                finished_at=None,
                error=None,
                result=None,
            )
        )
        job = await _one(session, statement)
        if job is not None:
            await self._end_attempt(session, job.id, "lost", None)
            session.add(JobAttemptRow(job_id=job.id, attempt=job.attempt, owner=owner, started_at=now))
            self.changes.tell(job.id)
        return job

    async def heartbeat(self, job_id: str, owner: str) -> bool:
        """Prolongs the lease. False: the job is not the owner's any more (cancelled, say)."""
        values = {"lease_expires_at": self._clock() + self._lease}
        async with self._database.transaction() as session:
            return await _one(session, update(JobRow).where(_owned(job_id, owner)).values(**values)) is not None

    async def progress(self, job_id: str, owner: str, done: int, total: int | None, rate_per_s: float | None) -> bool:
        """Notes how far it is and prolongs the lease. False as for `heartbeat`."""
        values = {
            "progress_done": done,
            "progress_total": total,
            "progress_rate_per_s": rate_per_s,
            "lease_expires_at": self._clock() + self._lease,
        }
        return await self._change(_owned(job_id, owner), values) is not None

    async def end(self, held: JobRow | Lease, ending: Ending) -> JobRow | None:
        """Ends the attempt of a job as it was taken, or of a lease as it was seen, which must be unchanged since.

        None: the job was not its owner's any more. Whoever changed it has the last word; the attempt taken is over.
        """
        where = _unchanged(held) if isinstance(held, Lease) else _owned(held.id, held.lease_owner)
        outcome, reason = attempt_outcome(ending)
        async with self._database.transaction() as session:
            job = await _one(session, update(JobRow).where(where).values(**self._values_of(ending)))
            if job is not None:
                await self._end_attempt(session, job.id, outcome, reason)
            elif isinstance(held, JobRow):
                await self._end_attempt(session, held.id, "cancelled", None, JobAttemptRow.attempt == held.attempt)
        if job is not None:
            note_end(job, ending)
            self.changes.tell(job.id)
        return job

    def _values_of(self, ending: Ending) -> dict[str, Any]:
        now = self._clock()
        over = {"result": None, "error": None, "finished_at": _not_before(JobRow.started_at, now), **_NO_LEASE}
        match ending:
            case Done(result):
                return over | {"status": "done", "result": result}
            case Failed(reason):
                return over | {"status": "failed", "error": reason}
            case Cancelled():
                return over | {"status": "cancelled"}
            case Lost(_, backoff_s):
                return self._pending_again(backoff_s)
            case Requeued(reason, backoff_s, failures, shown):
                counted = {} if failures is None else {"failures": failures}
                return self._pending_again(backoff_s) | counted | ({"error": reason} if shown else {})

    def _pending_again(self, backoff_s: float) -> dict[str, Any]:
        not_before = {"not_before": self._clock() + timedelta(seconds=backoff_s)} if backoff_s else {}
        return {"status": "pending", **_NO_LEASE, **not_before}

    async def leases(self) -> Sequence[Lease]:
        """Of all running jobs."""
        statement = select(JobRow.id, JobRow.lease_owner, JobRow.lease_expires_at).where(JobRow.status == "running")
        async with self._database.transaction() as session:
            return [Lease(*row) for row in await session.execute(statement)]

    async def has_frozen(self, job_id: str) -> bool:
        """Whether a process stood still during an earlier attempt at it."""
        statement = select(JobAttemptRow.job_id).where(
            JobAttemptRow.job_id == job_id, JobAttemptRow.error == FROZEN.reason
        )
        async with self._database.transaction() as session:
            return (await session.scalars(statement.limit(1))).first() is not None

    async def end_backoff(self) -> None:
        """The active model changed: its jobs need not wait any longer."""
        mine = JobRow.model_id.in_(select(ActiveModelRow.model_id))
        async with self._database.transaction() as session:
            await session.execute(
                update(JobRow)
                .where(JobRow.status == "pending", JobRow.not_before.is_not(None), mine)
                .values(not_before=None)
                .execution_options(synchronize_session=False)
            )

    async def date_endings(self) -> None:
        """Jobs that were ended by hand, in the database itself, get the time at which that was seen."""
        over = and_(JobRow.status.in_(OVER), JobRow.finished_at.is_(None))
        now = _not_before(JobRow.created_at, self._clock())
        changed = update(JobRow).where(over).values(finished_at=now).returning(JobRow.id)
        async with self._database.transaction() as session:
            ids = (await session.scalars(changed.execution_options(synchronize_session=False))).all()
        for job_id in ids:
            self.changes.tell(job_id)

    async def fail_orphans(self) -> None:
        """Pending jobs whose model was removed would wait for ever."""
        gone = and_(JobRow.model_digest != NO_DIGEST, JobRow.model_id.not_in(select(ModelRow.id)))
        orphaned = and_(JobRow.status == "pending", gone)
        statement = update(JobRow).where(orphaned)
        values = {
            "status": "failed",
            "error": "its model was removed while the job was waiting",
            "finished_at": self._clock(),
        }
        async with self._database.transaction() as session:
            changed = statement.values(**values).returning(JobRow).execution_options(synchronize_session=False)
            jobs = (await session.scalars(changed)).all()
        for job in jobs:
            note("failed", job, error=job.error)
            self.changes.tell(job.id)

    async def cancel(self, job_id: str) -> JobRow:
        """What was done is kept. Raises NotFound, and Conflict when it is over already."""
        where = and_(JobRow.id == job_id, JobRow.status.in_(LIVE))
        values = {"status": "cancelled", "finished_at": self._clock(), **_NO_LEASE}
        job = await self._change(where, values, "cancelled")
        if job is None:
            present = await self.get(job_id)
            raise Conflict(f"{job_id} is over already: it is {present.status}")
        note("cancelled", job)
        return job

    async def retry(self, job_id: str) -> JobRow:
        """Back to pending, its files kept. Raises NotFound; Conflict unless it failed or was cancelled, or when its
        model was removed."""
        there = or_(JobRow.model_digest == NO_DIGEST, JobRow.model_id.in_(select(ModelRow.id)))
        where = and_(JobRow.id == job_id, JobRow.status.in_(RETRYABLE), there)
        fresh = {"finished_at": None, "error": None, "not_before": None, "failures": 0, "unannounced": True}
        job = await self._change(where, {"status": "pending", **fresh, **_NO_LEASE})
        if job is None:
            present = await self.get(job_id)
            if present.status in RETRYABLE:
                raise Conflict(f"{job_id}: its model {present.model_id} was removed; register it again first")
            raise Conflict(f"{job_id} is {present.status}: only a failed or cancelled job can be tried again")
        note("retried", job)
        return job

    async def _change(
        self,
        where: ColumnElement[bool],
        values: dict[str, Any],
        outcome: AttemptOutcome | None = None,
    ) -> JobRow | None:
        async with self._database.transaction() as session:
            job = await _one(session, update(JobRow).where(where).values(**values))
            if job is not None and outcome is not None:
                await self._end_attempt(session, job.id, outcome, None)
        if job is not None:
            self.changes.tell(job.id)
        return job

    async def _end_attempt(
        self,
        session: AsyncSession,
        job_id: str,
        outcome: AttemptOutcome,
        error: str | None,
        *which: ColumnElement[bool],
    ) -> None:
        await session.execute(
            update(JobAttemptRow)
            .where(JobAttemptRow.job_id == job_id, JobAttemptRow.ended_at.is_(None), *which)
            .values(ended_at=self._clock(), outcome=outcome, error=error)
            .execution_options(synchronize_session=False)
        )


_NO_LEASE: dict[str, Any] = {"lease_owner": None, "lease_expires_at": None}


def _not_before(earlier: InstrumentedAttribute[Any], now: datetime) -> ColumnElement[Any]:
    """Now, or that earlier time of the row where the clock was set back since: no job ends before it began."""
    return case((earlier > now, earlier), else_=literal(now, earlier.type))


def _counted(job_type: str | None, status: Status | None, view: View) -> list[ColumnElement[bool]]:
    """`_wanted` for the numbers that the database keeps."""
    chosen = [view.rows(JobCountRow.created_by)]
    if job_type is not None:
        chosen.append(JobCountRow.type == job_type)
    if status is not None:
        chosen.append(JobCountRow.status == status)
    return chosen


def _wanted(job_type: str | None, status: Status | None, text: str, view: View) -> ColumnElement[bool]:
    chosen = [view.rows(JobRow.created_by)]
    if job_type is not None:
        chosen.append(JobRow.type == job_type)
    if status is not None:
        chosen.append(JobRow.status == status)
    if text:
        chosen.append(or_(*(column.icontains(text, autoescape=True) for column in (JobRow.id, JobRow.model_id))))
    return and_(*chosen)


def _owned(job_id: str, owner: str | None) -> ColumnElement[bool]:
    return and_(JobRow.id == job_id, JobRow.status == "running", JobRow.lease_owner == owner)


def _unchanged(lease: Lease) -> ColumnElement[bool]:
    is_odd = lease.expires_at == UNREADABLE_TIME  # nobody who renews leases writes such a one
    return and_(
        JobRow.id == lease.job_id,
        JobRow.status == "running",
        JobRow.lease_owner.is_not_distinct_from(lease.owner),
        true() if is_odd else JobRow.lease_expires_at.is_not_distinct_from(lease.expires_at),
    )


async def _one(session: AsyncSession, statement: Update) -> JobRow | None:
    """The row that the UPDATE changed, as it is now."""
    changed = statement.returning(JobRow).execution_options(synchronize_session=False)
    return (await session.scalars(changed)).one_or_none()
