"""The chosen profile in the database, so that it holds after a restart."""

from control.clock import Clock, utc_now
from control.database.database import Database
from control.database.tables import PowerChoiceRow
from control.power.profiles import Choice


class PowerChoices:
    """Every method is one transaction. Raises DatabaseUnavailable."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

    async def last(self) -> Choice | None:
        async with self._database.transaction() as session:
            row = await session.get(PowerChoiceRow, 1)
            return Choice(row.profile, row.chosen_at) if row else None

    async def keep(self, profile: str) -> Choice:
        choice = Choice(profile, self._clock())
        async with self._database.transaction() as session:
            await session.merge(PowerChoiceRow(singleton=1, profile=choice.profile, chosen_at=choice.at))
        return choice
