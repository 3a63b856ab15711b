"""How long and how much is kept of each key's responses and conversations."""

import logging
from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from control.clock import Clock, utc_now
from control.database.database import Database
from control.database.tables import ConversationItemRow, ConversationRow, StoredResponseRow
from control.tasks import repeat, uncut
from stepserve.stored_responses import StoredResponsesSettings

log = logging.getLogger(__name__)

_EVERY_S = 600.0  # responses are kept for days, so a look every ten minutes is soon enough
_AT_ONCE = 200
_SPARE_PART = 16


class Room:
    def __init__(self, database: Database, settings: StoredResponsesSettings, clock: Clock = utc_now) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock
        self._at_most: dict[str, int] = {}  # bytes of each owner's, deletions not counted

    async def make(self, session: AsyncSession, owner: str, added_bytes: int) -> None:
        """Removes what the owner has not used for longest once all of it is past its bound.

        Then somewhat more than has to go does, so that this is seldom: in between no row is looked at.
        """
        bound = self._settings.max_bytes_per_key
        self._at_most[owner] = self._at_most.get(owner, bound) + added_bytes
        if self._at_most[owner] <= bound:
            return
        held = await self._bytes_of(session, owner)
        if held > bound:
            held = await self._drop(session, owner, held, bound - bound // _SPARE_PART)
        self._at_most[owner] = held

    async def _drop(self, session: AsyncSession, owner: str, held: int, wanted: int) -> int:
        while held > wanted:
            freed = await self._drop_oldest(session, owner, held - wanted)
            if not freed:
                break
            held -= freed
        return held

    async def run(self) -> None:
        """For ever, until cancelled: what is too old goes."""
        await repeat(lambda: uncut(self.drop_old()), "deletion of old responses", _EVERY_S)

    async def drop_old(self) -> None:
        days = self._settings.max_age_days
        if days is None:
            return
        before = self._clock() - timedelta(days=days)
        async with self._database.alone() as session:
            old = select(ConversationRow.id).where(ConversationRow.used_at < before)
            await session.execute(delete(ConversationItemRow).where(ConversationItemRow.conversation_id.in_(old)))
            await session.execute(delete(ConversationRow).where(ConversationRow.used_at < before))
            await session.execute(delete(StoredResponseRow).where(StoredResponseRow.used_at < before))

    async def _bytes_of(self, session: AsyncSession, owner: str) -> int:
        total = 0
        for table in (StoredResponseRow, ConversationRow):
            total += await session.scalar(select(func.sum(table.size_bytes)).where(table.owner == owner)) or 0
        return total

    async def _drop_oldest(self, session: AsyncSession, owner: str, wanted_bytes: int) -> int:
        """How many bytes it freed: of up to a few hundred rows, oldest first, and no more than are wanted."""
        going: dict[type[StoredResponseRow | ConversationRow], list[str]] = {}
        freed = 0
        found = [
            (row.used_at, row.size_bytes, table, row.id)
            for table in (StoredResponseRow, ConversationRow)
            for row in await session.execute(
                select(table.id, table.used_at, table.size_bytes)
                .where(table.owner == owner)
                .order_by(table.used_at)
                .limit(_AT_ONCE)
            )
        ]
        for _, size_bytes, table, row_id in sorted(found, key=lambda each: each[0])[:_AT_ONCE]:
            if freed >= wanted_bytes:
                break
            going.setdefault(table, []).append(row_id)
            freed += size_bytes
        if ids := going.get(ConversationRow):
            await session.execute(delete(ConversationItemRow).where(ConversationItemRow.conversation_id.in_(ids)))
            await session.execute(delete(ConversationRow).where(ConversationRow.id.in_(ids)))
        if ids := going.get(StoredResponseRow):
            await session.execute(
                delete(StoredResponseRow).where(StoredResponseRow.owner == owner, StoredResponseRow.id.in_(ids))
            )
        return freed
