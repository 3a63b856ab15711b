"""SQL of stored responses, and what came before a request that goes on from one."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, literal, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from control.clock import Clock, utc_now
from control.database.database import Database
from control.database.tables import ConversationRow, StoredResponseRow
from control.errors import Invalid, NotFound
from control.responses.conversations import Conversations, bytes_upto, find, items_upto, last_position
from control.responses.items import as_input, as_kept, page_of, size_of
from control.responses.room import Room
from stepserve.stored_responses import ContextAnswer, ContextRequest, Item, KeptResponse

MOST_TURNS = 10_000
_READ_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class _Place:
    id: str
    size_bytes: int


class ResponseStore:
    """Every public method is one transaction. Another key's response is not found."""

    def __init__(self, database: Database, conversations: Conversations, room: Room, clock: Clock = utc_now) -> None:
        self._database = database
        self._conversations = conversations
        self._room = room
        self._clock = clock

    async def keep(self, responses: Sequence[KeptResponse]) -> None:
        """All or nothing. The same response again takes the place of the first."""
        now = self._clock()
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        added_bytes: Counter[str] = Counter()
        async with self._database.alone() as session:
            for each in responses:
                items = [as_kept(item) for item in each.input]
                added_bytes[each.owner] += await self._append(session, each, items)
                if each.store:
                    row = _row(each, items, now)
                    rows[each.owner, row["id"]] = row
                    added_bytes[each.owner] += row["size_bytes"]
            if rows:
                again = tuple_(StoredResponseRow.owner, StoredResponseRow.id).in_(list(rows))
                await session.execute(delete(StoredResponseRow).where(again))
                await session.execute(insert(StoredResponseRow), list(rows.values()))
            for owner, size_bytes in added_bytes.items():
                await self._room.make(session, owner, size_bytes)

    async def get(self, owner: str, response_id: str) -> dict[str, Any]:
        """Raises NotFound."""
        async with self._database.transaction() as session:
            return (await _find(session, owner, response_id)).response

    async def remove(self, owner: str, response_id: str) -> None:
        """Raises NotFound. What went on from it stays, and cannot be gone on from any more."""
        async with self._database.alone() as session:
            await session.delete(await _find(session, owner, response_id))

    async def input_items(
        self, owner: str, response_id: str, *, newest_first: bool, after: str | None, limit: int
    ) -> tuple[list[Item], bool]:
        """All that the model was shown, what came before included as far as it is still there. Raises NotFound."""
        async with self._database.transaction() as session:
            row = await _find(session, owner, response_id)
            places, _ = await _places(session, owner, response_id)
            turns = await _turns(session, owner, places)
            items = [*await _before(session, turns[0]), *_said(turns[:-1]), *row.input]
        return page_of(items, newest_first=newest_first, after=after, limit=limit)

    async def context(self, asked: ContextRequest) -> ContextAnswer:
        """Raises NotFound; Invalid for what is longer than `max_bytes`. What is gone on from has been used."""
        async with self._database.alone() as session:
            if asked.conversation_id is not None:
                row = await find(session, asked.owner, asked.conversation_id)
                _check_size("conversation", row.size_bytes, asked.max_bytes)
                row.used_at = self._clock()
                upto = await last_position(session, row.id)
                items = await items_upto(session, row.id, upto)
            else:
                assert asked.previous_id is not None
                items, upto = await self._chain(session, asked.owner, asked.previous_id, asked.max_bytes), None
        return ContextAnswer(items=[as_input(item) for item in items], upto=upto)

    async def _chain(self, session: AsyncSession, owner: str, response_id: str, max_bytes: int) -> list[Item]:
        places, missing = await _places(session, owner, response_id)
        if missing is not None:
            raise _not_found(missing)
        size_bytes = sum(place.size_bytes for place in places)
        _check_size("previous_response_id", size_bytes, max_bytes)
        turns = await _turns(session, owner, places)
        now = self._clock()
        first = turns[0]
        if first.conversation_id is not None and first.upto:
            talk = await find(session, owner, first.conversation_id)
            size_bytes += await bytes_upto(session, talk.id, first.upto)
            _check_size("previous_response_id", size_bytes, max_bytes)
            talk.used_at = now
        await session.execute(
            update(StoredResponseRow)
            .where(StoredResponseRow.owner == owner, StoredResponseRow.id.in_([turn.id for turn in turns]))
            .values(used_at=now)
        )
        return [*await _before(session, first), *_said(turns)]

    async def _append(self, session: AsyncSession, kept: KeptResponse, items: Sequence[Item]) -> int:
        """To the conversation that the request named, unless it was deleted meanwhile; how many bytes that are."""
        if kept.conversation_id is None:
            return 0
        output = _output(kept.response)
        conversation = await session.get(ConversationRow, kept.conversation_id)
        is_there = conversation is not None and conversation.owner == kept.owner
        if not is_there or await self._conversations.has(session, kept.conversation_id, output):
            return 0
        return await self._conversations.append(session, kept.conversation_id, [*items, *output])


def _row(kept: KeptResponse, items: list[Item], now: datetime) -> dict[str, Any]:
    return {
        "owner": kept.owner,
        "id": str(kept.response["id"]),
        "previous_id": kept.previous_id,
        "conversation_id": kept.conversation_id,
        "upto": kept.upto,
        "created_at": now,
        "used_at": now,
        "size_bytes": size_of((items, kept.response)),
        "input": items,
        "response": kept.response,
    }


def _output(response: dict[str, Any]) -> list[Item]:
    return [item for item in response.get("output", ()) if isinstance(item, dict)]


async def _places(session: AsyncSession, owner: str, response_id: str) -> tuple[list[_Place], str | None]:
    """The responses that lead to that one, oldest first; the id of the first one that is not there, if any.

    By one statement that reads no content. Raises Invalid for more than MOST_TURNS.
    """
    row = StoredResponseRow
    columns = (row.id, row.previous_id, row.size_bytes)
    begin = select(*columns, literal(1).label("turn")).where(row.owner == owner, row.id == response_id)
    chain = begin.cte("turns", recursive=True)
    before = (row.owner == owner) & (row.id == chain.c.previous_id) & (chain.c.turn <= MOST_TURNS)
    chain = chain.union_all(select(*columns, chain.c.turn + 1).where(before))
    places: dict[str, _Place] = {}
    missing: str | None = response_id
    found = await session.execute(select(chain.c.id, chain.c.previous_id, chain.c.size_bytes).order_by(chain.c.turn))
    for id_, previous_id, size_bytes in found:
        if id_ in places:  # a circle: a response took the place of an older one
            missing = None
            break
        places[id_] = _Place(id_, size_bytes)
        missing = previous_id
    if len(places) > MOST_TURNS:
        raise Invalid(f"previous_response_id: goes back over more than {MOST_TURNS} responses")
    return list(places.values())[::-1], missing


async def _turns(session: AsyncSession, owner: str, places: Sequence[_Place]) -> list[StoredResponseRow]:
    rows: dict[str, StoredResponseRow] = {}
    for start in range(0, len(places), _READ_AT_ONCE):
        ids = [place.id for place in places[start : start + _READ_AT_ONCE]]
        statement = select(StoredResponseRow).where(StoredResponseRow.owner == owner, StoredResponseRow.id.in_(ids))
        rows |= {row.id: row for row in await session.scalars(statement)}
    return [rows[place.id] for place in places]


async def _before(session: AsyncSession, first: StoredResponseRow) -> list[Item]:
    """The items of the conversation in which a response was made, as it was then."""
    if first.conversation_id is None or first.upto is None:
        return []
    return await items_upto(session, first.conversation_id, first.upto)


def _said(turns: Sequence[StoredResponseRow]) -> list[Item]:
    return [item for turn in turns for item in (*turn.input, *_output(turn.response))]


async def _find(session: AsyncSession, owner: str, response_id: str) -> StoredResponseRow:
    """Raises NotFound."""
    row = await session.get(StoredResponseRow, (owner, response_id))
    if row is None:
        raise _not_found(response_id)
    return row


def _not_found(response_id: str) -> NotFound:
    return NotFound(f"Response with id '{response_id}' not found.")


def _check_size(field: str, size_bytes: int, max_bytes: int) -> None:
    if size_bytes > max_bytes:
        raise Invalid(f"{field}: what it holds is {size_bytes} bytes, and a request may have {max_bytes}")
