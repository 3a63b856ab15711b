"""SQL of the ledger: every shard gets its name once, and is published once."""

from datetime import datetime
from typing import Any, cast

from sqlalchemy import func, select, update

from control.clock import Clock, utc_now
from control.database.database import Database
from control.database.tables import ShardRow
from stepserve.jobs.ports import ShardEntry, ShardState


class ShardBook:
    """Implements stepserve.jobs.ports.ShardLedger; every method is one transaction."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

    async def allot(self, job_id: str, ordinal: int, folder: str, day: str, at_least: int) -> ShardEntry:
        async with self._database.alone() as session:
            row = await session.scalar(
                select(ShardRow).where(ShardRow.job_id == job_id, ShardRow.ordinal == ordinal)
            )  # fmt: skip
            if row is None:
                highest = await session.scalar(select(func.max(ShardRow.number)).where(ShardRow.day == day))
                number = max(at_least, 0 if highest is None else highest + 1)
                name = f"shard_{day}_{number:03d}.jsonl"
                row = ShardRow(
                    name=name,
                    path=f"{folder}/{name}",
                    day=day,
                    number=number,
                    job_id=job_id,
                    ordinal=ordinal,
                    state="allotted",
                    created_at=self._clock(),
                    claims=0,
                )
                session.add(row)
            return _entry(row)

    async def stage(self, name: str, *, rows: int, size_bytes: int, sha256: str) -> None:
        await self._move(
            name, "allotted", {"state": "staged", "rows": rows, "size_bytes": size_bytes, "sha256": sha256}
        )

    async def publish(self, name: str) -> None:
        await self._move(name, "staged", {"state": "published", "published_at": self._clock()})

    async def _move(self, name: str, state: str, values: dict[str, str | int | datetime | Any]) -> None:
        """A second time changes nothing."""
        statement = update(ShardRow).where(ShardRow.name == name, ShardRow.state == state).values(**values)
        async with self._database.transaction() as session:
            await session.execute(statement.execution_options(synchronize_session=False))


def _entry(row: ShardRow) -> ShardEntry:
    state = cast("ShardState", row.state)  # by the table's own constraint
    return ShardEntry(name=row.name, path=row.path, state=state)
