"""SQL of the inbox: each published shard is handed to one trainer at a time, until one of them acknowledges it.

Each change is one conditional UPDATE, so of two who want the same shard one gets another or none.
"""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal, get_args

from sqlalchemy import ColumnElement, and_, or_, select, true, update
from sqlalchemy.ext.asyncio import AsyncSession

from control.access.view import EVERYTHING, View
from control.clock import Clock, utc_now
from control.database.database import Database
from control.database.tables import JobRow, ShardRow
from control.errors import Conflict, NotFound

ShardStatus = Literal["free", "claimed", "acknowledged"]
STATUSES: Final[tuple[ShardStatus, ...]] = get_args(ShardStatus)


class ShardInbox:
    """Every method is one transaction. A claim that was not acknowledged in time is nobody's."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

    async def get(self, name: str, view: View = EVERYTHING) -> ShardRow:
        """Raises NotFound, also before it is published, and for one that `view` does not see."""
        statement = select(ShardRow).where(ShardRow.name == name, _seen_by(view))
        async with self._database.transaction() as session:
            row = await session.scalar(statement)
        if row is None or row.state != "published":
            raise NotFound(f"there is no shard {name!r}: see GET /shards")
        return row

    async def of_job(self, job_id: str) -> Sequence[ShardRow]:
        """Those that are published, in the order they were made."""
        return await self._select(ShardRow.job_id == job_id, ordered_by_ordinal=True)

    async def at(self, path: str) -> ShardRow | None:
        """The shard whose file is there, relative to the base directory, published or not."""
        async with self._database.transaction() as session:
            row: ShardRow | None = await session.scalar(select(ShardRow).where(ShardRow.path == path).limit(1))
        return row

    async def published(
        self, status: ShardStatus | None, job_id: str | None, limit: int, view: View = EVERYTHING
    ) -> Sequence[ShardRow]:
        """Oldest first."""
        wishes = [_seen_by(view)] if job_id is None else [_seen_by(view), ShardRow.job_id == job_id]
        if status is not None:
            wishes.append(self._is(status))
        return await self._select(*wishes, limit=limit)

    async def claim(
        self, claimed_by: str, timeout_s: float, job_id: str | None = None, view: View = EVERYTHING
    ) -> ShardRow | None:
        """The oldest free shard, now claimed; None when there is none."""
        now = self._clock()
        wish = self._is("free") if job_id is None else and_(self._is("free"), ShardRow.job_id == job_id)
        free = select(ShardRow.name).where(ShardRow.state == "published", wish, _seen_by(view))
        free = free.order_by(ShardRow.day, ShardRow.number).limit(1)
        values = {
            "claim_id": secrets.token_hex(8),
            "claimed_by": claimed_by,
            "claimed_until": now + timedelta(seconds=timeout_s),
            "claims": ShardRow.claims + 1,
        }
        async with self._database.alone() as session:
            return await _changed(session, ShardRow.name == free.scalar_subquery(), values)

    async def acknowledge(self, name: str, claim_id: str) -> ShardRow:
        """The claimer has it for good; a second time changes nothing. Too late is fine while nobody else claimed it.

        Raises NotFound, Conflict.
        """
        mine = and_(ShardRow.name == name, ShardRow.claim_id == claim_id, ShardRow.acknowledged_at.is_(None))
        async with self._database.transaction() as session:
            row = await _changed(session, mine, {"acknowledged_at": self._clock()})
        return row or await self._present(name, claim_id, acknowledged=True)

    async def refuse(self, name: str, claim_id: str, reason: str | None) -> ShardRow:
        """Gives it back, free at once. Raises NotFound, Conflict."""
        mine = and_(ShardRow.name == name, ShardRow.claim_id == claim_id, ShardRow.acknowledged_at.is_(None))
        values = {"claim_id": None, "claimed_until": None, "claimed_by": None, "refusal": reason}
        async with self._database.transaction() as session:
            row = await _changed(session, mine, values)
        return row or await self._present(name, claim_id, acknowledged=False)

    async def _present(self, name: str, claim_id: str, *, acknowledged: bool) -> ShardRow:
        row = await self.get(name)
        if acknowledged and row.claim_id == claim_id and row.acknowledged_at is not None:
            return row
        if row.acknowledged_at is not None:
            raise Conflict(f"{name} was acknowledged at {row.acknowledged_at.isoformat()}")
        raise Conflict(f"claim_id: {claim_id!r} is not the present claim on {name}: its time ran out, or it never was")

    async def _select(
        self, *wishes: ColumnElement[bool], limit: int | None = None, ordered_by_ordinal: bool = False
    ) -> Sequence[ShardRow]:
        statement = select(ShardRow).where(ShardRow.state == "published", *wishes).limit(limit)
        order = (ShardRow.ordinal,) if ordered_by_ordinal else (ShardRow.day, ShardRow.number)
        async with self._database.transaction() as session:
            return (await session.scalars(statement.order_by(*order))).all()

    def _is(self, status: ShardStatus) -> ColumnElement[bool]:
        now = self._clock()
        unclaimed = or_(ShardRow.claimed_until.is_(None), ShardRow.claimed_until <= now)
        match status:
            case "free":
                return and_(ShardRow.acknowledged_at.is_(None), unclaimed)
            case "claimed":
                return and_(ShardRow.acknowledged_at.is_(None), ShardRow.claimed_until > now)
            case "acknowledged":
                return ShardRow.acknowledged_at.is_not(None)


def _seen_by(view: View) -> ColumnElement[bool]:
    """A shard is its job's maker's."""
    if view.owner is None:
        return true()
    return ShardRow.job_id.in_(select(JobRow.id).where(view.rows(JobRow.created_by)))


def status_of(row: ShardRow, now: datetime) -> ShardStatus:
    if row.acknowledged_at is not None:
        return "acknowledged"
    return "claimed" if row.claimed_until is not None and row.claimed_until > now else "free"


async def _changed(session: AsyncSession, where: ColumnElement[bool], values: dict[str, Any]) -> ShardRow | None:
    statement = update(ShardRow).where(where).values(**values).returning(ShardRow)
    return (await session.scalars(statement.execution_options(synchronize_session=False))).one_or_none()
