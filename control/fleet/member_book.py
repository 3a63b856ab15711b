"""SQL of the fleet's members."""

from collections.abc import Sequence
from typing import Literal

from sqlalchemy import delete, select, update

from control.clock import Clock, utc_now
from control.database.database import Database
from control.database.fleet_tables import FleetMemberRow
from control.errors import NotFound
from stepserve.fleet import Committed, JoinRequest

Hold = Literal["drain", "cordon"]


class MemberBook:
    """Every method is one transaction."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

    async def all(self) -> Sequence[FleetMemberRow]:
        async with self._database.transaction() as session:
            return (await session.scalars(select(FleetMemberRow).order_by(FleetMemberRow.id))).all()

    async def put(self, request: JoinRequest) -> FleetMemberRow:
        """The member as it is from this join on. One that was kept out stays so; what it serves is not known yet."""
        async with self._database.alone() as session:
            row = await session.get(FleetMemberRow, request.id)
            if row is None:
                row = FleetMemberRow(id=request.id, hold=None, reason=None)
                session.add(row)
            row.url, row.token, row.boot_id = request.url, request.token, request.boot_id
            row.zone, row.labels = request.zone, dict(request.labels)
            row.devices = [device.model_dump() for device in request.devices]
            row.stepserve_version, row.vllm_version = request.stepserve_version, request.vllm_version
            row.model, row.digest, row.version = None, None, 0
            row.joined_at = self._clock()
        return row

    async def note_served(self, member_id: str, served: Committed | None) -> None:
        model, digest, version = (None, None, 0) if served is None else (served.model, served.digest, served.version)
        async with self._database.transaction() as session:
            await session.execute(
                update(FleetMemberRow)
                .where(FleetMemberRow.id == member_id)
                .values(model=model, digest=digest, version=version)
            )

    async def hold(self, member_id: str, hold: Hold | None, reason: str | None) -> None:
        """Keeps a member out, or (None) no more. Raises NotFound."""
        async with self._database.transaction() as session:
            row = await session.get(FleetMemberRow, member_id)
            if row is None:
                raise NotFound(f"there is no member {member_id!r}: stepserve fleet status lists them")
            row.hold, row.reason = hold, reason

    async def remove(self, member_id: str) -> None:
        async with self._database.transaction() as session:
            await session.execute(delete(FleetMemberRow).where(FleetMemberRow.id == member_id))
