"""SQL of activations: their history, and which model is the active one."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from control.clock import Clock, utc_now
from control.database.database import Database
from control.database.tables import ActivationRow, ActiveModelRow, ModelRow
from control.errors import NotFound
from stepserve.contract import ActivateResult, ModelRef, SwitchMethod, WeightsVersion
from stepserve.fleet import Committed, KeptVersion


@dataclass(frozen=True, slots=True)
class ActiveModel:
    """`digest`: of the registered files; `version_digest`: of the pushed `version` that a fleet serves in their place,
    where that is not 0.
    """

    id: str
    path: str
    digest: str
    since: datetime
    version: WeightsVersion = field(default_factory=WeightsVersion)
    version_digest: str | None = None

    @property
    def committed(self) -> Committed:
        """As gateways say what they serve."""
        digest = self.version_digest if self.version.number else self.digest
        return Committed(model=self.id, digest=digest or self.digest, version=self.version.number)

    def __str__(self) -> str:
        return f"{self.id} (version {self.version.number})" if self.version.number else self.id


class ActivationLog:
    """Every method is one transaction."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

    async def active(self) -> ActiveModel | None:
        async with self._database.transaction() as session:
            statement = select(ModelRow, ActiveModelRow).join(ActiveModelRow, ActiveModelRow.model_id == ModelRow.id)
            found = (await session.execute(statement)).one_or_none()
        if found is None:
            return None
        model, active = found
        version = WeightsVersion(number=active.version, label=active.version_label)
        return ActiveModel(model.id, model.path, model.digest, active.since, version, active.version_digest)

    async def begin(self, model: ModelRef, *, cause: str, method: SwitchMethod) -> int:
        """The new activation's id; it is `running` until `commit` or `fail`. Raises NotFound: deleted meanwhile."""
        async with self._database.alone() as session:
            if await session.get(ModelRow, model.id) is None:
                raise NotFound(f"{model.id} was deleted before the switch to it began")
            return await self._add(session, model.id, model.digest, cause=cause, requested_method=method)

    async def begin_push(self, pushed: KeptVersion, *, cause: str) -> int:
        """As `begin`, of weights that are pushed to a fleet. Nobody is notified of its end."""
        version = {"version": pushed.version.number, "version_label": pushed.version.label, "unannounced": None}
        async with self._database.alone() as session:
            return await self._add(
                session, pushed.model, pushed.digest, cause=cause, requested_method="push", **version
            )

    async def is_taken_back(self, model_id: str, number: int) -> bool:
        """Whether a version was pushed to a fleet and did not become what it serves."""
        failed = select(ActivationRow.id).where(
            ActivationRow.model_id == model_id, ActivationRow.version == number, ActivationRow.status == "failed"
        )
        async with self._database.transaction() as session:
            return await session.scalar(failed.limit(1)) is not None

    async def commit(self, activation_id: int, result: ActivateResult | None) -> None:
        """Marks it done and makes its model the active one, both or neither. No result: nobody heard how it went.

        A later activation that is done already stays the one that counts.
        """
        async with self._database.transaction() as session:
            row = await session.get_one(ActivationRow, activation_id)
            row.status = "done"
            row.finished_at = self._clock()
            if result is not None:
                _copy(result, row)
            later = select(ActivationRow.id).where(ActivationRow.id > activation_id, ActivationRow.status == "done")
            if await session.scalar(later.limit(1)) is None:
                await self._move(session, row)

    async def fail(self, activation_id: int, error: str, result: ActivateResult | None = None) -> None:
        async with self._database.transaction() as session:
            row = await session.get_one(ActivationRow, activation_id)
            row.status = "failed"
            row.error = error
            row.finished_at = self._clock()
            if result is not None:
                _copy(result, row)

    async def appoint(self, model: ModelRef, *, cause: str) -> None:
        """Makes a model the active one without a switch: the reconciler will bring the gateway there."""
        activation_id = await self.begin(model, cause=cause, method="auto")
        await self.commit(activation_id, None)

    async def unfinished(self) -> Sequence[ActivationRow]:
        async with self._database.transaction() as session:
            statement = select(ActivationRow).where(ActivationRow.status == "running").order_by(ActivationRow.id)
            return (await session.scalars(statement)).all()

    async def is_done(self, cause: str) -> bool:
        """Whether a switch of that cause has succeeded."""
        done = select(ActivationRow.id).where(ActivationRow.cause == cause, ActivationRow.status == "done")
        async with self._database.transaction() as session:
            return await session.scalar(done.limit(1)) is not None

    async def history(self, limit: int) -> Sequence[ActivationRow]:
        """Newest first."""
        async with self._database.transaction() as session:
            return (await session.scalars(select(ActivationRow).order_by(ActivationRow.id.desc()).limit(limit))).all()

    async def previous(self) -> str | None:
        """The model that was active last before the present one and is still registered as it was."""
        async with self._database.transaction() as session:
            statement = (
                select(ActivationRow.model_id)
                .join(ModelRow, (ModelRow.id == ActivationRow.model_id) & (ModelRow.digest == ActivationRow.digest))
                .where(
                    ActivationRow.status == "done",
                    ActivationRow.model_id.not_in(select(ActiveModelRow.model_id)),
                )
                .order_by(ActivationRow.id.desc())
                .limit(1)
            )
            return await session.scalar(statement)

    async def _add(self, session: AsyncSession, model_id: str, digest: str, **fields: Any) -> int:
        row = ActivationRow(
            model_id=model_id,
            digest=digest,
            previous=await session.scalar(select(ActiveModelRow.model_id)),
            status="running",
            started_at=self._clock(),
            **fields,
        )
        session.add(row)
        await session.flush()
        return row.id

    async def _move(self, session: AsyncSession, row: ActivationRow) -> None:
        active = await session.get(ActiveModelRow, 1)
        if active is None:
            active = ActiveModelRow(singleton=1, model_id=row.model_id, since=self._clock())
            session.add(active)
        elif active.model_id != row.model_id:
            active.model_id = row.model_id
            active.since = self._clock()
        active.version, active.version_label = row.version, row.version_label
        active.version_digest = row.digest if row.version else None


def _copy(result: ActivateResult, row: ActivationRow) -> None:
    row.method = result.method
    row.paused_ms = result.paused_ms
    row.total_ms = result.total_ms
    row.reference_wait_ms = result.reference_wait_ms
    row.in_flight = result.in_flight
    row.proof = result.proof.model_dump() if result.proof else None
    row.rolled_back_to = result.rolled_back_to
