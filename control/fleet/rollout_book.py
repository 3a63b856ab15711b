"""SQL of rollouts: every step of one is a row, written before it is taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from control.clock import Clock, utc_now
from control.database.database import Database
from control.database.fleet_tables import RolloutRow, RolloutStepRow
from control.database.tables import ActivationRow
from control.fleet.rollout_plan import Phase, Rollout, Step, StepState
from stepserve.fleet import LOCAL_MEMBER, Committed, RolloutPolicy, RolloutStep, RolloutView, Wave

_OVER = ("committed", "rolled_back")


@dataclass(frozen=True, slots=True)
class StoredRollout:
    row: RolloutRow
    steps: Sequence[RolloutStepRow]

    @property
    def rollout(self) -> Rollout:
        steps = tuple(
            Step(step.member_id, step.wave, cast("StepState", step.state), step.error)
            for step in sorted(self.steps, key=lambda each: (each.wave, each.member_id))
        )
        return Rollout(cast("Phase", self.row.state), cast("RolloutPolicy", self.row.policy), steps)

    def view(self) -> RolloutView:
        steps = [RolloutStep(member=s.member, wave=s.wave, state=s.state, error=s.error) for s in self.rollout.steps]
        return RolloutView(
            id=self.row.id,
            model=self.row.model_id,
            digest=self.row.digest,
            version=self.row.version,
            previous=self.row.previous_id,
            policy=self.rollout.policy,
            wave=cast("Wave", self.row.wave),
            state=self.rollout.phase,
            error=self.row.error,
            steps=steps,
        )


class RolloutBook:
    """Every method is one transaction."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

    async def begin(
        self,
        activation_id: int,
        committed: Committed,
        previous_id: str,
        policy: RolloutPolicy,
        wave: Wave,
        members: Mapping[str, int],
    ) -> int:
        """To what is `committed` when it ends well. `members`: the wave of each; control's own gateway is added as wave
        0.
        """
        now = self._clock()
        async with self._database.alone() as session:
            row = RolloutRow(
                activation_id=activation_id,
                model_id=committed.model,
                digest=committed.digest,
                version=committed.version,
                previous_id=previous_id,
                policy=policy,
                wave=wave,
                state="staging",
                started_at=now,
            )
            session.add(row)
            await session.flush()
            for member, number in {LOCAL_MEMBER: 0, **members}.items():
                # Control's own gateway has the files.
                state = "staged" if member == LOCAL_MEMBER else "pending"
                step = {"member_id": member, "wave": number, "state": state, "changed_at": now}
                session.add(RolloutStepRow(rollout_id=row.id, **step))
            return row.id

    async def step(self, rollout_id: int, members: Sequence[str], state: StepState, error: str | None = None) -> None:
        async with self._database.transaction() as session:
            await session.execute(
                update(RolloutStepRow)
                .where(RolloutStepRow.rollout_id == rollout_id, RolloutStepRow.member_id.in_(members))
                .values(state=state, error=error, changed_at=self._clock())
            )

    async def move(self, rollout_id: int, phase: Phase, error: str | None = None) -> None:
        async with self._database.transaction() as session:
            row = await session.get_one(RolloutRow, rollout_id)
            row.state = phase
            row.error = error if error is not None else row.error
            if phase in _OVER:
                row.finished_at = self._clock()

    async def of_activation(self, activation_id: int) -> StoredRollout | None:
        async with self._database.transaction() as session:
            row = await session.scalar(select(RolloutRow).where(RolloutRow.activation_id == activation_id))
            return None if row is None else await _stored(session, row)

    async def get(self, rollout_id: int) -> StoredRollout:
        async with self._database.transaction() as session:
            return await _stored(session, await session.get_one(RolloutRow, rollout_id))

    async def newest(self) -> StoredRollout | None:
        async with self._database.transaction() as session:
            row = await session.scalar(select(RolloutRow).order_by(RolloutRow.id.desc()).limit(1))
            return None if row is None else await _stored(session, row)

    async def counts(self) -> dict[str, int]:
        """How many rollouts there are by their state."""
        async with self._database.transaction() as session:
            statement = select(RolloutRow.state, func.count()).group_by(RolloutRow.state)
            return {str(state): int(count) for state, count in (await session.execute(statement)).all()}

    async def close_settled(self) -> None:
        """Ends what an earlier process left open although the activation itself had ended."""
        async with self._database.alone() as session:
            statement = (
                select(RolloutRow, ActivationRow.status)
                .join(ActivationRow, ActivationRow.id == RolloutRow.activation_id)
                .where(RolloutRow.state.not_in(_OVER), ActivationRow.status != "running")
            )
            for row, status in (await session.execute(statement)).all():
                row.state = "committed" if status == "done" else "rolled_back"
                row.finished_at = self._clock()


async def _stored(session: AsyncSession, row: RolloutRow) -> StoredRollout:
    steps = await session.scalars(select(RolloutStepRow).where(RolloutStepRow.rollout_id == row.id))
    return StoredRollout(row, steps.all())
