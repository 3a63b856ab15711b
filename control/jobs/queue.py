"""SQL of jobs. Every change of state is one conditional UPDATE: who comes second changes nothing and is told so."""

import hashlib
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Update, and_, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from control.clock import Clock, utc_now
from control.db import Database
from control.errors import Conflict, NotFound
from control.jobs.events import note
from control.jobs.ids import new_job_id
from control.jobs.states import STATUSES, Status
from control.tables import ActiveModelRow, JobRow, ModelRow

_ID_TRIES = 5


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A client's key and what it asked for under it."""

    key: str
    request_hash: str

    @classmethod
    def of(cls, key: str, job_type: str, body: dict[str, Any]) -> "Idempotency":
        text = json.dumps([job_type, body], sort_keys=True, separators=(",", ":"))
        return cls(key, hashlib.sha256(text.encode()).hexdigest())


class JobQueue:
    """Every method is one transaction. A lease lasts `lease_s` from the last claim, heartbeat or progress."""

    def __init__(self, database: Database, lease_s: float, clock: Clock = utc_now) -> None:
        self._database = database
        self._lease = timedelta(seconds=lease_s)
        self._clock = clock

    async def create(
        self, job_type: str, model_id: str, config: dict[str, Any], idempotency: Idempotency | None = None
    ) -> tuple[JobRow, bool]:
        """The job, and whether it is new. Raises NotFound (model), Conflict (the key was used for something else)."""
        for _ in range(_ID_TRIES):
            if idempotency is not None:
                present = await self.find_by_key(idempotency)
                if present is not None:
                    return present, False
            try:
                job = await self._insert(job_type, model_id, config, idempotency)
            except IntegrityError:
                continue
            note("created", job)
            return job, True
        raise Conflict("no free job id was found: try again")

    async def _insert(
        self, job_type: str, model_id: str, config: dict[str, Any], idempotency: Idempotency | None
    ) -> JobRow:
        now = self._clock()
        async with self._database.transaction() as session:
            model = await session.get(ModelRow, model_id)
            if model is None:
                raise NotFound(f"model_id: no model is registered as {model_id!r}")
            job = JobRow(
                id=new_job_id(job_type, now),
                type=job_type,
                model_id=model_id,
                model_digest=model.digest,
                status="pending",
                config=config,
                attempt=0,
                progress_done=0,
                idempotency_key=idempotency.key if idempotency else None,
                request_hash=idempotency.request_hash if idempotency else None,
                created_at=now,
            )
            session.add(job)
        return job

    async def find_by_key(self, idempotency: Idempotency) -> JobRow | None:
        """Raises Conflict when the key stands for another request."""
        async with self._database.transaction() as session:
            job = await session.scalar(select(JobRow).where(JobRow.idempotency_key == idempotency.key))
        if job is not None and job.request_hash != idempotency.request_hash:
            raise Conflict(f"Idempotency-Key {idempotency.key!r} was used for another request ({job.id})")
        return job

    async def get(self, job_id: str, job_type: str | None = None) -> JobRow:
        """Raises NotFound, for a job of another type too."""
        async with self._database.transaction() as session:
            job = await session.get(JobRow, job_id)
        if job is None or job_type not in {None, job.type}:
            raise NotFound(f"there is no {job_type + ' ' if job_type else ''}job {job_id!r}")
        return job

    async def newest_first(self, job_type: str | None, status: Status | None, limit: int) -> Sequence[JobRow]:
        statement = select(JobRow).order_by(JobRow.created_at.desc(), JobRow.id.desc()).limit(limit)
        if job_type is not None:
            statement = statement.where(JobRow.type == job_type)
        if status is not None:
            statement = statement.where(JobRow.status == status)
        async with self._database.transaction() as session:
            return (await session.scalars(statement)).all()

    async def stats(self) -> dict[str, int]:
        """Jobs by status, and how many were made in the last hour."""
        hour_ago = self._clock() - timedelta(hours=1)
        async with self._database.transaction() as session:
            counts = await session.execute(select(JobRow.status, func.count()).group_by(JobRow.status))
            by_status: dict[str, int] = dict(iter(counts))
            recent = await session.scalar(select(func.count()).where(JobRow.created_at >= hour_ago))
        return {status: by_status.get(status, 0) for status in STATUSES} | {"jobs_last_hour": recent or 0}

    async def claim(self, owner: str, types: Collection[str], resting: Collection[str] = ()) -> JobRow | None:
        """The oldest job of the active model that nobody works at, now leased to `owner`; none of `resting`."""
        now = self._clock()
        free = or_(JobRow.status == "pending", and_(JobRow.status == "running", _lease_is_over(now)))
        async with self._database.transaction() as session:
            candidate = (
                select(JobRow.id)
                .where(free, JobRow.type.in_(types), JobRow.id.not_in(resting))
                .where(JobRow.model_id.in_(select(ActiveModelRow.model_id)))
                .order_by(JobRow.created_at, JobRow.id)
                .limit(1)
            )
            statement = (
                update(JobRow)
                .where(JobRow.id == candidate.scalar_subquery(), free)
                .values(
                    status="running",
                    lease_owner=owner,
                    lease_expires_at=now + self._lease,
                    attempt=JobRow.attempt + 1,
                    started_at=now,
                    finished_at=None,
                    error=None,
                    result=None,
                )
            )
            return await _one(session, statement)

    async def heartbeat(self, job_id: str, owner: str) -> bool:
        """Prolongs the lease. False: the job is not the owner's any more (cancelled, say)."""
        values = {"lease_expires_at": self._clock() + self._lease}
        return await self._change(_owned(job_id, owner), values) is not None

    async def progress(self, job_id: str, owner: str, done: int, total: int, rate_per_s: float | None) -> bool:
        """Notes how far it is and prolongs the lease. False as for `heartbeat`."""
        values = {
            "progress_done": done,
            "progress_total": total,
            "progress_rate_per_s": rate_per_s,
            "lease_expires_at": self._clock() + self._lease,
        }
        return await self._change(_owned(job_id, owner), values) is not None

    async def finish(
        self, job_id: str, owner: str, status: Status, *, result: dict[str, Any] | None = None, error: str | None = None
    ) -> JobRow | None:
        """Ends the owner's job as done, failed or cancelled. None: it was not the owner's any more."""
        values = {
            "status": status, "result": result, "error": error, "finished_at": self._clock(), **_NO_LEASE
        }  # fmt: skip
        return await self._change(_owned(job_id, owner), values)

    async def release(self, job_id: str, owner: str) -> JobRow | None:
        """Gives the owner's job back to the queue, its files kept. None: it was not the owner's any more."""
        return await self._change(_owned(job_id, owner), {"status": "pending", **_NO_LEASE})

    async def release_dead(self, is_dead: Callable[[str], bool]) -> Sequence[JobRow]:
        """Gives back what dead owners hold, before their leases run out."""
        async with self._database.transaction() as session:
            owners = await session.scalars(select(JobRow.lease_owner).where(JobRow.status == "running").distinct())
            dead = [owner for owner in owners if owner is not None and is_dead(owner)]
            statement = (
                update(JobRow)
                .where(JobRow.status == "running", JobRow.lease_owner.in_(dead))
                .values(status="pending", **_NO_LEASE)
            )
            changed = statement.returning(JobRow).execution_options(synchronize_session=False)
            return (await session.scalars(changed)).all()

    async def cancel(self, job_id: str) -> JobRow:
        """Raises NotFound, and Conflict when it is over already."""
        where = and_(JobRow.id == job_id, JobRow.status.in_(["pending", "running"]))
        job = await self._change(where, {"status": "cancelled", "finished_at": self._clock(), **_NO_LEASE})
        if job is None:
            present = await self.get(job_id)
            raise Conflict(f"{job_id} is over already: it is {present.status}")
        note("cancelled", job)
        return job

    async def retry(self, job_id: str) -> JobRow:
        """Back to pending, its files kept. Raises NotFound, and Conflict unless it failed or was cancelled."""
        where = and_(JobRow.id == job_id, JobRow.status.in_(["failed", "cancelled"]))
        job = await self._change(where, {"status": "pending", "finished_at": None, "error": None, **_NO_LEASE})
        if job is None:
            present = await self.get(job_id)
            raise Conflict(f"{job_id} is {present.status}: only a failed or cancelled job can be tried again")
        note("retried", job)
        return job

    async def _change(self, where: ColumnElement[bool], values: dict[str, Any]) -> JobRow | None:
        async with self._database.transaction() as session:
            return await _one(session, update(JobRow).where(where).values(**values))


_NO_LEASE: dict[str, Any] = {"lease_owner": None, "lease_expires_at": None}


def _owned(job_id: str, owner: str) -> ColumnElement[bool]:
    return and_(JobRow.id == job_id, JobRow.status == "running", JobRow.lease_owner == owner)


def _lease_is_over(now: Any) -> ColumnElement[bool]:
    return or_(JobRow.lease_expires_at.is_(None), JobRow.lease_expires_at < now)


async def _one(session: AsyncSession, statement: Update) -> JobRow | None:
    """The row that the UPDATE changed, as it is now."""
    changed = statement.returning(JobRow).execution_options(synchronize_session=False)
    return (await session.scalars(changed)).one_or_none()
