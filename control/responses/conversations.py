"""SQL of conversations and their items."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from control.clock import Clock, utc_now
from control.database.database import Database
from control.database.tables import ConversationItemRow, ConversationRow
from control.errors import NotFound
from control.responses.items import as_kept, new_id, size_of
from control.responses.room import Room
from stepserve.stored_responses import Item


@dataclass(frozen=True, slots=True)
class Page:
    items: list[Item]
    has_more: bool


class Conversations:
    """Every public method is one transaction. Another key's conversation is not found."""

    def __init__(self, database: Database, room: Room, clock: Clock = utc_now) -> None:
        self._database = database
        self._room = room
        self._clock = clock

    async def create(self, owner: str, details: dict[str, Any], items: Sequence[Item]) -> ConversationRow:
        now = self._clock()
        row = ConversationRow(
            id=new_id("conv"), owner=owner, created_at=now, used_at=now, size_bytes=size_of(details), details=details
        )
        async with self._database.alone() as session:
            session.add(row)
            await session.flush()
            added_bytes = await self.append(session, row.id, [as_kept(item) for item in items])
            await self._room.make(session, owner, row.size_bytes + added_bytes)
        return row

    async def get(self, owner: str, conversation_id: str) -> ConversationRow:
        """Raises NotFound."""
        async with self._database.transaction() as session:
            return await find(session, owner, conversation_id)

    async def update(self, owner: str, conversation_id: str, details: dict[str, Any]) -> ConversationRow:
        """Raises NotFound."""
        async with self._database.alone() as session:
            row = await find(session, owner, conversation_id)
            row.size_bytes += size_of(details) - size_of(row.details)
            row.details, row.used_at = details, self._clock()
            await session.flush()
            await self._room.make(session, owner, size_of(details))
        return row

    async def remove(self, owner: str, conversation_id: str) -> None:
        """Raises NotFound."""
        async with self._database.alone() as session:
            row = await find(session, owner, conversation_id)
            await session.execute(
                delete(ConversationItemRow).where(ConversationItemRow.conversation_id == conversation_id)
            )
            await session.delete(row)

    async def add(self, owner: str, conversation_id: str, items: Sequence[Item]) -> list[Item]:
        """The items as they are kept. Raises NotFound."""
        kept = [as_kept(item) for item in items]
        async with self._database.alone() as session:
            await find(session, owner, conversation_id)
            await self._room.make(session, owner, await self.append(session, conversation_id, kept))
        return kept

    async def page(
        self, owner: str, conversation_id: str, *, newest_first: bool, after: str | None, limit: int
    ) -> Page:
        """Raises NotFound, also for an `after` that is not one of its items."""
        position = ConversationItemRow.position
        async with self._database.transaction() as session:
            await find(session, owner, conversation_id)
            statement = select(ConversationItemRow.item).where(ConversationItemRow.conversation_id == conversation_id)
            if after is not None:
                last = (await _item(session, conversation_id, after)).position
                statement = statement.where(position < last if newest_first else position > last)
            statement = statement.order_by(position.desc() if newest_first else position).limit(limit + 1)
            found = list(await session.scalars(statement))
        return Page(found[:limit], len(found) > limit)

    async def item(self, owner: str, conversation_id: str, item_id: str) -> Item:
        """Raises NotFound."""
        async with self._database.transaction() as session:
            await find(session, owner, conversation_id)
            return (await _item(session, conversation_id, item_id)).item

    async def remove_item(self, owner: str, conversation_id: str, item_id: str) -> ConversationRow:
        """Raises NotFound."""
        async with self._database.alone() as session:
            row = await find(session, owner, conversation_id)
            item = await _item(session, conversation_id, item_id)
            row.size_bytes -= item.size_bytes
            await session.delete(item)
        return row

    async def has(self, session: AsyncSession, conversation_id: str, items: Sequence[Item]) -> bool:
        """Whether any of these is there already: what is brought a second time."""
        found = await session.scalars(
            select(ConversationItemRow.id).where(
                ConversationItemRow.conversation_id == conversation_id,
                ConversationItemRow.id.in_([item.get("id") for item in items]),
            )
        )
        return found.first() is not None

    async def append(self, session: AsyncSession, conversation_id: str, items: Sequence[Item]) -> int:
        """Within the caller's transaction; how many bytes that are."""
        added_bytes = 0
        for item in items:
            size_bytes = size_of(item)
            added_bytes += size_bytes
            session.add(
                ConversationItemRow(conversation_id=conversation_id, id=item["id"], size_bytes=size_bytes, item=item)
            )
            await session.flush()  # one by one: positions are their order
        await session.execute(
            update(ConversationRow)
            .where(ConversationRow.id == conversation_id)
            .values(used_at=self._clock(), size_bytes=ConversationRow.size_bytes + added_bytes)
        )
        return added_bytes


async def find(session: AsyncSession, owner: str, conversation_id: str) -> ConversationRow:
    """Raises NotFound."""
    row = await session.get(ConversationRow, conversation_id)
    if row is None or row.owner != owner:
        raise NotFound(f"Conversation with id '{conversation_id}' not found.")
    return row


async def items_upto(session: AsyncSession, conversation_id: str, upto: int) -> list[Item]:
    """Oldest first."""
    found = await session.scalars(
        select(ConversationItemRow.item)
        .where(ConversationItemRow.conversation_id == conversation_id, ConversationItemRow.position <= upto)
        .order_by(ConversationItemRow.position)
    )
    return list(found)


async def bytes_upto(session: AsyncSession, conversation_id: str, upto: int) -> int:
    found = await session.scalar(
        select(func.sum(ConversationItemRow.size_bytes)).where(
            ConversationItemRow.conversation_id == conversation_id, ConversationItemRow.position <= upto
        )
    )
    return int(found or 0)


async def last_position(session: AsyncSession, conversation_id: str) -> int:
    """0: it has no items."""
    found = await session.scalar(
        select(func.max(ConversationItemRow.position)).where(ConversationItemRow.conversation_id == conversation_id)
    )
    return found or 0


async def _item(session: AsyncSession, conversation_id: str, item_id: str) -> ConversationItemRow:
    """Raises NotFound."""
    row = await session.scalar(
        select(ConversationItemRow).where(
            ConversationItemRow.conversation_id == conversation_id, ConversationItemRow.id == item_id
        )
    )
    if row is None:
        raise NotFound(f"Item with id '{item_id}' not found.")
    return row
