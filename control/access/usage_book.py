"""What each key used of each model, by day."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select

from control.database.database import Database
from control.database.tables import KeyUsageRow
from stepserve.access import Usage


@dataclass(frozen=True, slots=True)
class UsageSum:
    """Summed over all gateways and their restarts. `day` is UTC, such as 2026-01-31."""

    key_id: str
    model: str
    day: str
    requests: int
    prompt_tokens: int
    completion_tokens: int


class UsageBook:
    """Gateways report running totals, not differences: a report that arrives twice changes nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def note(self, source: str, usage: Sequence[Usage]) -> None:
        """Puts down the totals that the gateway `source` has reached."""
        if not usage:
            return
        async with self._database.alone() as session:
            for each in usage:
                row = KeyUsageRow(
                    source=source,
                    key_id=each.key_id,
                    model=each.model,
                    day=each.day,
                    requests=each.requests,
                    prompt_tokens=each.prompt_tokens,
                    completion_tokens=each.completion_tokens,
                )
                await session.merge(row)

    async def of(self, key_id: str | None = None) -> list[UsageSum]:
        """Newest day first; of one key, or of all."""
        columns = (KeyUsageRow.key_id, KeyUsageRow.model, KeyUsageRow.day)
        statement = (
            select(
                *columns,
                func.sum(KeyUsageRow.requests),
                func.sum(KeyUsageRow.prompt_tokens),
                func.sum(KeyUsageRow.completion_tokens),
            )
            .group_by(*columns)
            .order_by(KeyUsageRow.day.desc(), KeyUsageRow.key_id, KeyUsageRow.model)
        )
        if key_id is not None:
            statement = statement.where(KeyUsageRow.key_id == key_id)
        async with self._database.transaction() as session:
            rows = (await session.execute(statement)).all()
        return [UsageSum(row[0], row[1], row[2], int(row[3]), int(row[4]), int(row[5])) for row in rows]
