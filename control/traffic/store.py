"""SQL of requests and answers that are kept, and of the feedback on them."""

import hashlib
import json
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, insert, literal, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from control.access.principal import Principal
from control.clock import Clock, utc_now
from control.database.database import Database
from control.database.traffic_tables import TrafficRow
from control.errors import Conflict, Forbidden, NotFound
from control.tasks import repeat, uncut
from control.traffic.consents import Consents
from stepserve.traffic import FeedbackOrder, KeptExchange, TrafficSettings

log = logging.getLogger(__name__)

_EVERY_S = 600.0  # exchanges are kept for days, so a look every ten minutes is soon enough
_SPARE_PART = 16
_AT_ONCE = 200

_Place = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which exchanges. `owner` None: of all keys. `rated`: with feedback, or without."""

    owner: str | None = None
    model: str | None = None
    rated: bool | None = None

    @property
    def where(self) -> list[ColumnElement[bool]]:
        wishes: list[ColumnElement[bool]] = []
        if self.owner is not None:
            wishes.append(TrafficRow.owner == self.owner)
        if self.model is not None:
            wishes.append(TrafficRow.model == self.model)
        if self.rated is not None:
            wishes.append(TrafficRow.rating.is_not(None) if self.rated else TrafficRow.rating.is_(None))
        return wishes


class TrafficStore:
    """Every public method is one transaction, but for `rated` and `run`."""

    def __init__(
        self, database: Database, consents: Consents, settings: TrafficSettings, clock: Clock = utc_now
    ) -> None:
        self._database = database
        self._consents = consents
        self._settings = settings
        self._clock = clock
        self._at_most: int | None = None  # bytes of all, deletions not counted

    async def keep(self, exchanges: Sequence[KeptExchange]) -> None:
        """All or nothing, of owners that consent at this moment. The same again changes nothing; a later answer to the
        same id takes the place of the first, and of the feedback on it.
        """
        async with self._database.alone() as session:
            given = await self._consents.given(session, {each.owner for each in exchanges})
            newest: dict[_Place, KeptExchange] = {}
            for each in exchanges:
                place = (each.owner, each.request_id)
                if each.owner in given and (place not in newest or newest[place].answered_at < each.answered_at):
                    newest[place] = each
            for place, answered_at in await _answered(session, list(newest)):
                if newest[place].answered_at <= answered_at:
                    del newest[place]
            if not newest:
                return
            await session.execute(delete(TrafficRow).where(_at(list(newest))))
            rows = [_row(each) for each in newest.values()]
            await session.execute(insert(TrafficRow), rows)
            await self._make_room(session, sum(row["size_bytes"] for row in rows))

    async def page(self, wanted: Wanted, limit: int, after: str | None) -> Sequence[TrafficRow]:
        """Newest first; `after`: the id that the page before ended with. Raises NotFound for one that is gone."""
        statement = select(TrafficRow).where(*wanted.where)
        async with self._database.transaction() as session:
            if after is not None:
                last = await self._found(session, wanted.owner, after)
                older = and_(TrafficRow.answered_at == last.answered_at, TrafficRow.request_id < last.request_id)
                statement = statement.where(or_(TrafficRow.answered_at < last.answered_at, older))
            statement = statement.order_by(TrafficRow.answered_at.desc(), TrafficRow.request_id.desc()).limit(limit)
            return (await session.scalars(statement)).all()

    async def count(self, owner: str | None) -> tuple[int, int]:
        """How many there are, and how many bytes."""
        statement = select(func.count(), func.coalesce(func.sum(TrafficRow.size_bytes), 0))
        async with self._database.transaction() as session:
            row = (await session.execute(statement.where(*Wanted(owner).where))).one()
        return int(row[0]), int(row[1])

    async def get(self, owner: str | None, request_id: str, asker: str) -> TrafficRow:
        """Raises NotFound, Conflict."""
        async with self._database.transaction() as session:
            return await self._found(session, owner, request_id, asker)

    async def remove(self, owner: str | None, request_id: str, asker: str) -> TrafficRow:
        """Raises NotFound, Conflict."""
        async with self._database.alone() as session:
            row = await self._found(session, owner, request_id, asker)
            await session.delete(row)
        return row

    async def remove_all(self, owner: str) -> int:
        """How many there were."""
        async with self._database.alone() as session:
            gone = await session.execute(
                delete(TrafficRow).where(TrafficRow.owner == owner).returning(TrafficRow.request_id)
            )
            return len(gone.all())

    async def rate(self, order: FeedbackOrder, principal: Principal) -> TrafficRow:
        """Feedback takes the place of earlier feedback. Raises Forbidden, NotFound, Conflict."""
        if order.key_id not in {None, principal.actor} and not principal.sees_all:
            raise Forbidden("key_id: only a key with the scope admin rates the answers of other keys")
        async with self._database.alone() as session:
            owner = order.key_id or (None if principal.sees_all else principal.actor)
            row = await self._found(session, owner, order.request_id, principal.actor)
            before = _size(row.correction)
            row.rating, row.correction = order.rating, order.correction
            row.rated_by, row.rated_at = principal.actor, self._clock()
            row.size_bytes += _size(order.correction) - before
            await session.flush()
            await self._make_room(session, _size(order.correction))
        return row

    async def rated(self, wanted: Wanted) -> AsyncIterator[list[TrafficRow]]:
        """All with feedback, those of the same prompt together, newest first."""
        last: tuple[str, str, str] | None = None
        group: list[TrafficRow] = []
        columns = (TrafficRow.prompt_sha, TrafficRow.owner, TrafficRow.request_id)
        while True:
            statement = select(TrafficRow).where(*wanted.where, TrafficRow.rating.is_not(None))
            if last is not None:
                statement = statement.where(tuple_(*columns) > tuple_(*map(literal, last)))
            async with self._database.transaction() as session:
                rows = (await session.scalars(statement.order_by(*columns).limit(_AT_ONCE))).all()
            for row in rows:
                if group and group[0].prompt_sha != row.prompt_sha:
                    yield _newest_first(group)
                    group = []
                group.append(row)
            if len(rows) < _AT_ONCE:
                break
            last = (rows[-1].prompt_sha, rows[-1].owner, rows[-1].request_id)
        if group:
            yield _newest_first(group)

    async def run(self) -> None:
        """For ever, until cancelled: what is too old goes."""
        await repeat(lambda: uncut(self.drop_old()), "deletion of old traffic", _EVERY_S)

    async def drop_old(self) -> None:
        days = self._settings.max_age_days
        if days is None:
            return
        async with self._database.alone() as session:
            old = TrafficRow.answered_at < self._clock() - timedelta(days=days)
            await session.execute(delete(TrafficRow).where(old))

    async def _make_room(self, session: AsyncSession, added_bytes: int) -> None:
        """Removes the oldest once all is past its bound; then somewhat more than has to go, so that this is seldom."""
        bound = self._settings.max_bytes
        self._at_most = None if self._at_most is None else self._at_most + added_bytes
        if self._at_most is not None and self._at_most <= bound:
            return
        held = int(await session.scalar(select(func.sum(TrafficRow.size_bytes))) or 0)
        too_much = held - (bound - bound // _SPARE_PART) if held > bound else 0
        while too_much > 0:
            columns = (TrafficRow.owner, TrafficRow.request_id, TrafficRow.size_bytes)
            oldest = (await session.execute(select(*columns).order_by(TrafficRow.answered_at).limit(_AT_ONCE))).all()
            going: list[_Place] = []
            for owner, request_id, size_bytes in oldest:
                if too_much <= 0:
                    break
                going.append((owner, request_id))
                too_much -= size_bytes
                held -= size_bytes
            if not going:
                break
            await session.execute(delete(TrafficRow).where(_at(going)))
        self._at_most = held

    async def _found(
        self, session: AsyncSession, owner: str | None, request_id: str, asker: str | None = None
    ) -> TrafficRow:
        """Of several keys' requests of that name the asker's. Raises NotFound, which says why there may be none."""
        statement = select(TrafficRow).where(TrafficRow.request_id == request_id, *Wanted(owner).where)
        rows = (await session.scalars(statement.order_by(TrafficRow.owner))).all()
        rows = [row for row in rows if row.owner == asker] or rows
        if len(rows) > 1:
            owners = ", ".join(row.owner for row in rows[:5])
            raise Conflict(f"request_id: {request_id} is the name of requests of {owners}: say whose as key_id")
        if not rows:
            raise NotFound(f"there is no kept request {request_id!r}: {await self._why_not(session, owner or asker)}")
        return rows[0]

    async def _why_not(self, session: AsyncSession, owner: str | None) -> str:
        objection = None if owner is None else await self._consents.objection(session, owner)
        if objection is not None:
            return objection
        settings = self._settings
        age = "" if settings.max_age_days is None else f", is older than {settings.max_age_days:g} days"
        return (
            "it was asked before its key consented or under another key, was not one answer in words, was larger than"
            f" {settings.max_exchange_bytes} bytes (traffic.max_exchange_bytes), was not among the share that is kept"
            f" (traffic.share is {settings.share:g}){age}, or was deleted"
        )


def _row(each: KeptExchange) -> dict[str, Any]:
    prompt: Any = each.prompt
    if not isinstance(prompt, str):
        prompt = [turn.model_dump() for turn in prompt]
    content = {"path": each.path, "prompt": prompt, "answer": each.answer, "finish_reason": each.finish_reason}
    return {
        "owner": each.owner,
        "request_id": each.request_id,
        "answered_at": each.answered_at,
        "model": each.model,
        "digest": each.digest,
        "prompt_sha": hashlib.sha256(json.dumps(prompt, sort_keys=True).encode()).hexdigest(),
        "size_bytes": len(json.dumps(content, ensure_ascii=False).encode()),
        "content": content,
    }


def _size(correction: str | None) -> int:
    return len(correction.encode()) if correction is not None else 0


def _at(places: Sequence[_Place]) -> ColumnElement[bool]:
    return tuple_(TrafficRow.owner, TrafficRow.request_id).in_(places)


async def _answered(session: AsyncSession, places: Sequence[_Place]) -> list[tuple[_Place, Any]]:
    columns = (TrafficRow.owner, TrafficRow.request_id, TrafficRow.answered_at)
    found = await session.execute(select(*columns).where(_at(places)))
    return [((owner, request_id), answered_at) for owner, request_id, answered_at in found]


def _newest_first(rows: list[TrafficRow]) -> list[TrafficRow]:
    return sorted(rows, key=lambda row: row.answered_at, reverse=True)
