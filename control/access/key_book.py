"""The keys: made, listed, revoked; and what gateways are told about them."""

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from control.access.new_key import NewKey
from control.clock import Clock, utc_now
from control.database.database import Database
from control.database.tables import AccessStateRow, ApiKeyRow
from control.database.traffic_tables import TrafficConsentRow
from control.errors import Conflict, GatewayUnavailable, Invalid, NotFound
from stepserve.access import OWNER, KeyRecord, KeySet, digest_of, new_token

log = logging.getLogger(__name__)

RECOVERED = "recovered"


class Push(Protocol):
    async def __call__(self, keys: KeySet, *, recovered: bool = False) -> None:
        """Raises GatewayUnavailable."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a recovery did. `brought_back` and `revoked` are ids of keys; `token` is None where no key was made."""

    brought_back: list[str]
    revoked: list[str]
    made: ApiKeyRow | None = None
    token: str | None = None


class KeyBook:
    """Every change is pushed to the gateway; one that cannot be reached asks for it within a second of its return.

    `admin_elsewhere`: the settings hold an admin key too, so the last one here may go.
    """

    def __init__(self, database: Database, push: Push, *, admin_elsewhere: bool, clock: Clock = utc_now) -> None:
        self._database = database
        self._push = push
        self._admin_elsewhere = admin_elsewhere
        self._clock = clock

    async def create(self, wanted: NewKey, created_by: str) -> tuple[ApiKeyRow, str]:
        """The new row, and the key itself, which is nowhere else and never shown again.

        Raises Invalid for a first key without `admin`: whoever made it would have locked the door from outside.
        """
        now = self._clock()
        try:
            wanted.check(now)
        except ValueError as error:
            raise Invalid(str(error)) from error
        expires_at = wanted.expires_at
        if wanted.expires_in_days is not None:
            expires_at = now + timedelta(days=wanted.expires_in_days)
        key_id, token = new_token()
        async with self._database.alone() as session:
            if "admin" not in wanted.scopes and not await self._an_admin_is_left(session, now, without=None):
                raise Invalid("scopes: there is no key with the scope admin yet; make that one first")
            row = ApiKeyRow(
                id=key_id,
                name=wanted.name,
                digest=digest_of(token),
                scopes=wanted.sorted_scopes,
                requests_per_min=wanted.requests_per_min,
                tokens_per_min=wanted.tokens_per_min,
                max_concurrent=wanted.max_concurrent,
                created_at=now,
                created_by=created_by,
                expires_at=expires_at,
                revoked_at=None,
                keep_traffic=wanted.keep_traffic,
            )
            session.add(row)
            if wanted.keep_traffic:
                session.add(TrafficConsentRow(key_id=key_id, keep=True, by=created_by, at=now))
            await self._bump(session)
        await self.tell()
        return row, token

    async def recover(self, remembered: KeySet | None, *, with_new_key: bool) -> Recovery:
        """Makes the database's keys the ones that hold, and the gateway take them.

        What the gateway remembers comes first where it is of this database, or the database has no keys: keys that were
        lost are brought back, revoked ones are revoked again. A database with keys of its own is taken as it is.
        Raises GatewayUnavailable; what was written stays, and the same again is harmless.
        """
        now = self._clock()
        key_id, token = new_token()
        made: ApiKeyRow | None = None
        async with self._database.alone() as session:
            state = await session.get(AccessStateRow, 1)
            rows = {row.id: row for row in (await session.scalars(select(ApiKeyRow))).all()}
            brought_back: list[str] = []
            revoked: list[str] = []
            if remembered is not None and (not rows or (state is not None and state.epoch == remembered.epoch)):
                for record in remembered.keys:
                    if record.id not in rows:
                        session.add(_row(record, now))
                        brought_back.append(record.id)
                    elif record.revoked and rows[record.id].revoked_at is None:
                        rows[record.id].revoked_at = now
                        revoked.append(record.id)
                await self._go_on_after(session, remembered)
            if with_new_key:
                made = ApiKeyRow(
                    id=key_id,
                    name=RECOVERED,
                    digest=digest_of(token),
                    scopes=["admin"],
                    requests_per_min=None,
                    tokens_per_min=None,
                    max_concurrent=None,
                    created_at=now,
                    created_by=OWNER,
                    expires_at=None,
                    revoked_at=None,
                    keep_traffic=False,
                )
                session.add(made)
            await self._bump(session)
        await self._push(await self.key_set(), recovered=True)
        return Recovery(brought_back, revoked, made, token if made is not None else None)

    async def revoke(self, key_id: str) -> ApiKeyRow:
        """Revoking twice is no error. Raises NotFound; Conflict for the last key that could make others."""
        now = self._clock()
        async with self._database.alone() as session:
            row = await session.get(ApiKeyRow, key_id)
            if row is None:
                raise NotFound(f"there is no key {key_id!r}")
            if row.revoked_at is None:
                if "admin" in row.scopes and not await self._an_admin_is_left(session, now, without=key_id):
                    raise Conflict(f"{key_id} is the last key with the scope admin: make another first")
                row.revoked_at = now
                await self._bump(session)
        await self.tell()
        return row

    async def consent(self, key_id: str, *, keep: bool, by: str) -> ApiKeyRow:
        """`by` says whether the key's traffic may be kept from now on. The same again is not noted. Raises NotFound."""
        async with self._database.alone() as session:
            row = await session.get(ApiKeyRow, key_id)
            if row is None:
                raise NotFound(f"there is no key {key_id!r}")
            if row.keep_traffic != keep:
                row.keep_traffic = keep
                session.add(TrafficConsentRow(key_id=key_id, keep=keep, by=by, at=self._clock()))
                await self._bump(session)
        await self.tell()
        return row

    async def get(self, key_id: str) -> ApiKeyRow:
        """Raises NotFound."""
        async with self._database.transaction() as session:
            row = await session.get(ApiKeyRow, key_id)
        if row is None:
            raise NotFound(f"there is no key {key_id!r}")
        return row

    async def newest_first(self) -> Sequence[ApiKeyRow]:
        async with self._database.transaction() as session:
            return (await session.scalars(select(ApiKeyRow).order_by(ApiKeyRow.created_at.desc(), ApiKeyRow.id))).all()

    async def key_set(self) -> KeySet:
        """What gateways know: every key that was ever made, the revoked ones too, so that they are named as such."""
        state = select(AccessStateRow.epoch, AccessStateRow.revision)
        rows = select(ApiKeyRow).order_by(ApiKeyRow.id).execution_options(populate_existing=True)
        async with self._database.transaction() as session:
            before = (await session.execute(state)).first()
            while True:
                keys = [_record(row) for row in (await session.scalars(rows)).all()]
                after = (await session.execute(state)).first()
                if before == after:  # PostgreSQL shows each statement what was committed meanwhile
                    break
                before = after
        if before is None:
            return KeySet(epoch="", revision=0, keys=[])
        return KeySet(epoch=before.epoch, revision=before.revision, keys=keys)

    async def newer_than(self, epoch: str | None, revision: int) -> KeySet | None:
        """The keys, unless the asker has them already."""
        async with self._database.transaction() as session:
            state = await session.get(AccessStateRow, 1)
        here = (state.epoch, state.revision) if state else ("", 0)
        return None if here == (epoch, revision) else await self.key_set()

    async def _an_admin_is_left(self, session: AsyncSession, now: datetime, *, without: str | None) -> bool:
        if self._admin_elsewhere:
            return True
        rows = await session.scalars(select(ApiKeyRow).where(ApiKeyRow.revoked_at.is_(None)))
        return any(
            "admin" in row.scopes and row.id != without and (row.expires_at is None or row.expires_at > now)
            for row in rows
        )

    @staticmethod
    async def _go_on_after(session: AsyncSession, remembered: KeySet) -> None:
        """Counts on from what gateways know, so that all of them take what comes."""
        if not remembered.epoch:
            return
        state = await session.get(AccessStateRow, 1)
        if state is None:
            session.add(AccessStateRow(singleton=1, epoch=remembered.epoch, revision=remembered.revision))
        else:
            state.epoch, state.revision = remembered.epoch, max(state.revision, remembered.revision)
        await session.flush()

    @staticmethod
    async def _bump(session: AsyncSession) -> None:
        changed = await session.execute(
            update(AccessStateRow).values(revision=AccessStateRow.revision + 1).returning(AccessStateRow.revision)
        )
        if changed.first() is None:
            session.add(AccessStateRow(singleton=1, epoch=uuid.uuid4().hex, revision=1))

    async def tell(self) -> None:
        """Pushes all keys to the gateway, if it is there."""
        try:
            await self._push(await self.key_set())
        except GatewayUnavailable as error:
            log.info("the gateway will ask for the keys when it is back: %s", error)


def _row(record: KeyRecord, now: datetime) -> ApiKeyRow:
    """A key that only a gateway knows any more; when it was made is not known, nor who consented to what."""
    return ApiKeyRow(
        id=record.id,
        name=record.name,
        digest=record.digest,
        scopes=list(record.scopes),
        requests_per_min=record.requests_per_min,
        tokens_per_min=record.tokens_per_min,
        max_concurrent=record.max_concurrent,
        created_at=now,
        created_by=RECOVERED,
        expires_at=datetime.fromtimestamp(record.expires_at, UTC) if record.expires_at is not None else None,
        revoked_at=now if record.revoked else None,
        keep_traffic=False,
    )


def _record(row: ApiKeyRow) -> KeyRecord:
    return KeyRecord.model_validate(
        {
            "id": row.id,
            "name": row.name,
            "digest": row.digest,
            "scopes": row.scopes,
            "expires_at": row.expires_at.timestamp() if row.expires_at else None,
            "revoked": row.revoked_at is not None,
            "requests_per_min": row.requests_per_min,
            "tokens_per_min": row.tokens_per_min,
            "max_concurrent": row.max_concurrent,
            "keep_traffic": row.keep_traffic,
        }
    )
