"""Who said that whose traffic may be kept, and when."""

from collections.abc import Collection, Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from control.clock import Clock, utc_now
from control.database.database import Database
from control.database.tables import ApiKeyRow
from control.database.traffic_tables import TrafficConsentRow
from stepserve.access import ANONYMOUS, SETTINGS_KEY
from stepserve.traffic import TrafficSettings

BY_SETTINGS = "settings"


class Consents:
    """Keys consent in control.access.key_book; for requests without a key the settings do."""

    def __init__(self, database: Database, settings: TrafficSettings, clock: Clock = utc_now) -> None:
        self._database = database
        self._settings = settings
        self._clock = clock

    async def note_settings(self) -> None:
        """Once at start: what the settings say of requests without a key, where that is new."""
        keep = self._settings.on and self._settings.without_keys
        async with self._database.alone() as session:
            last = await session.scalar(
                select(TrafficConsentRow.keep)
                .where(TrafficConsentRow.key_id == ANONYMOUS)
                .order_by(TrafficConsentRow.id.desc())
                .limit(1)
            )
            if keep != bool(last):
                session.add(TrafficConsentRow(key_id=ANONYMOUS, keep=keep, by=BY_SETTINGS, at=self._clock()))

    async def history(self, key_id: str) -> Sequence[TrafficConsentRow]:
        """Newest first."""
        statement = select(TrafficConsentRow).where(TrafficConsentRow.key_id == key_id)
        async with self._database.transaction() as session:
            return (await session.scalars(statement.order_by(TrafficConsentRow.id.desc()))).all()

    async def given(self, session: AsyncSession, owners: Collection[str]) -> set[str]:
        """Those of the owners whose traffic may be kept now."""
        if not self._settings.on:
            return set()
        keys = select(ApiKeyRow.id).where(ApiKeyRow.keep_traffic, ApiKeyRow.id.in_(owners))
        found = set((await session.scalars(keys)).all())
        return found | ({ANONYMOUS} & set(owners) if self._settings.without_keys else set())

    async def objection(self, session: AsyncSession, owner: str) -> str | None:
        """Why nothing of the owner's is kept, and what would change that; None: it is."""
        if not self._settings.on:
            return "this server keeps no traffic: set traffic.on"
        if owner in await self.given(session, [owner]):
            return None
        if owner == ANONYMOUS:
            return "requests without a key are not kept: set traffic.without_keys, or ask with a key that consents"
        if await session.get(ApiKeyRow, owner) is None:
            said = "the key of the settings" if owner == SETTINGS_KEY else f"{owner!r}"
            return f"{said} cannot consent: ask with a key that was made with POST /keys"
        return f'the key {owner} has not consented: PUT /traffic/consent with {{"keep": true}} before asking'
