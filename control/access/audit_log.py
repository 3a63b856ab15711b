"""Who changed what, and how it ended: every request that needs the scope admin and changes something."""

from collections.abc import Sequence

from sqlalchemy import select, update

from control.access.principal import Principal
from control.clock import Clock, utc_now
from control.database.database import Database
from control.database.tables import AuditRow


class AuditLog:
    """An action is noted before it begins, so that one that was cut off has left its trace."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

    async def begin(self, principal: Principal, method: str, path: str, target: str | None) -> int:
        """The entry's number; its `status` is None until `end`. A NUL in the target, which PostgreSQL cannot keep, is
        shown as U+2400.
        """
        async with self._database.transaction() as session:
            row = AuditRow(
                at=self._clock(),
                actor=principal.actor,
                client=principal.client,
                method=method,
                path=path,
                target=target and target.replace("\0", "\u2400"),
                status=None,
                ended_at=None,
            )
            session.add(row)
            await session.flush()
            return row.id

    async def end(self, number: int, status: int) -> None:
        async with self._database.transaction() as session:
            await session.execute(
                update(AuditRow).where(AuditRow.id == number).values(status=status, ended_at=self._clock())
            )

    async def newest_first(self, limit: int, actor: str | None = None) -> Sequence[AuditRow]:
        statement = select(AuditRow).order_by(AuditRow.id.desc()).limit(limit)
        if actor is not None:
            statement = statement.where(AuditRow.actor == actor)
        async with self._database.transaction() as session:
            return (await session.scalars(statement)).all()
