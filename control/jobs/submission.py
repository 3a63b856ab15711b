"""Submitting jobs: once per idempotency key, once per content where deduplication is asked for, up to the limit."""

import hashlib
import json
import secrets
import string
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from control.access.view import EVERYTHING, View
from control.clock import Clock, utc_now
from control.database.database import Database
from control.database.tables import NO_DIGEST, JobRow, ModelRow
from control.errors import Conflict, NotFound, QueueFull
from control.jobs.events import note
from control.jobs.states import LIVE
from stepserve.request_id import key_id, request_id

Novelty = Literal["new", "existing", "deduplicated"]

_ID_ALPHABET = string.ascii_lowercase + string.digits
_ID_TRIES = 5
_SAME_WORK = ("pending", "running", "done")


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A client's key and what it asked for under it."""

    key: str
    request_hash: str

    @classmethod
    def of(cls, key: str, job_type: str, body: dict[str, Any]) -> "Idempotency":
        return cls(key, _sha256([job_type, body]))


@dataclass(frozen=True, slots=True)
class NewJob:
    """`identity` is what makes two jobs of a type and a model's content the same; None: no two are.

    `standalone`: `model_id` names what the job is about and need not be registered; one such job of a type and id at a
    time: the same work asked for meanwhile is the answer, other work is refused. `view`: among whose jobs the same work
    is looked for.
    """

    type: str
    model_id: str
    config: dict[str, Any]
    priority: int = 0
    when_inactive: str = "wait"
    identity: dict[str, Any] | None = None
    dedupe: bool = False
    idempotency: Idempotency | None = None
    standalone: bool = False
    view: View = EVERYTHING


class JobSubmission:
    def __init__(self, database: Database, max_pending_jobs: int, clock: Clock = utc_now) -> None:
        self._database = database
        self._max_pending_jobs = max_pending_jobs
        self._clock = clock

    async def create(self, new: NewJob) -> tuple[JobRow, Novelty]:
        """One transaction: of two that come at once, the second finds the first.

        Raises NotFound (model), Conflict (the key was used for something else), QueueFull.
        """
        async with self._database.alone() as session:
            if new.idempotency is not None:
                present = await _of_key(session, new.idempotency)
                if present is not None:
                    return present, "existing"
            digest = NO_DIGEST if new.standalone else await _digest(session, new.model_id)
            fingerprint = None if new.identity is None else _sha256([new.type, digest, new.identity])
            if new.standalone:
                present = await _live(session, new)
                if present is not None and present.fingerprint == fingerprint:
                    return present, "deduplicated"
                if present is not None:
                    raise Conflict(f"{present.id} is at work on {new.model_id} already: wait for it or cancel it")
            elif new.dedupe and fingerprint is not None:
                same = select(JobRow).where(JobRow.fingerprint == fingerprint, JobRow.status.in_(_SAME_WORK))
                same = same.where(new.view.rows(JobRow.created_by))
                present = await session.scalar(same.order_by(JobRow.created_at).limit(1))
                if present is not None:
                    return present, "deduplicated"
            await self._check_room(session)
            now = self._clock()
            job = JobRow(
                id=await _free_id(session, new.type, now),
                type=new.type,
                model_id=new.model_id,
                model_digest=digest,
                status="pending",
                config=new.config,
                attempt=0,
                priority=new.priority,
                when_inactive=new.when_inactive,
                failures=0,
                fingerprint=fingerprint,
                progress_done=0,
                idempotency_key=new.idempotency.key if new.idempotency else None,
                request_hash=new.idempotency.request_hash if new.idempotency else None,
                request_id=request_id.get(),
                created_by=key_id.get(),
                created_at=now,
            )
            session.add(job)
        note("created", job)
        return job, "new"

    async def find_by_key(self, idempotency: Idempotency) -> JobRow | None:
        """Raises Conflict when the key stands for another request."""
        async with self._database.transaction() as session:
            return await _of_key(session, idempotency)

    async def _check_room(self, session: AsyncSession) -> None:
        pending = await session.scalar(select(func.count()).where(JobRow.status == "pending")) or 0
        if pending >= self._max_pending_jobs:
            raise QueueFull(f"{pending} jobs are pending, no more may wait (max_pending_jobs): try again later")


def new_job_id(job_type: str, moment: datetime) -> str:
    """`eval_20251122_053000_k3f9`: two in one second differ, all but surely; the table's key makes sure."""
    return f"{job_type}_{moment:%Y%m%d_%H%M%S}_{''.join(secrets.choice(_ID_ALPHABET) for _ in range(4))}"


async def _digest(session: AsyncSession, model_id: str) -> str:
    model = await session.get(ModelRow, model_id)
    if model is None:
        raise NotFound(f"model_id: no model is registered as {model_id!r}")
    return model.digest


async def _live(session: AsyncSession, new: NewJob) -> JobRow | None:
    living = select(JobRow).where(
        JobRow.type == new.type, JobRow.model_id == new.model_id, JobRow.status.in_(LIVE)
    )  # fmt: skip
    job: JobRow | None = await session.scalar(living.limit(1))
    return job


async def _of_key(session: AsyncSession, idempotency: Idempotency) -> JobRow | None:
    job = await session.scalar(select(JobRow).where(JobRow.idempotency_key == idempotency.key))
    if job is not None and job.request_hash != idempotency.request_hash:
        shown = idempotency.key.rpartition("\n")[2]
        raise Conflict(f"Idempotency-Key {shown!r} was used for another request ({job.id})")
    return job


async def _free_id(session: AsyncSession, job_type: str, now: datetime) -> str:
    for _ in range(_ID_TRIES):
        job_id = new_job_id(job_type, now)
        if await session.get(JobRow, job_id) is None:
            return job_id
    raise Conflict("no free job id was found: try again")


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
