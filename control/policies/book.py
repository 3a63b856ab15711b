"""SQL of policies and of their runs."""

import logging
import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import ValidationError
from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from control.access.view import View
from control.clock import Clock, utc_now
from control.database.database import Database
from control.database.tables import ModelRow, PolicyRow, PolicyRunRow
from control.errors import Conflict, NotFound
from control.policies.request import PolicyRequest
from control.policies.steps import steps_of

log = logging.getLogger(__name__)

MOST = 100
State = Literal["open", "over"]
_MODELS_AT_ONCE = 100


class PolicyBook:
    """Every method is one transaction."""

    def __init__(self, database: Database, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock

    async def policies(self) -> Sequence[PolicyRow]:
        async with self._database.transaction() as session:
            return (await session.scalars(select(PolicyRow).order_by(PolicyRow.name))).all()

    async def get(self, name: str, view: View) -> PolicyRow:
        """Raises NotFound, for what `view` does not see too."""
        async with self._database.transaction() as session:
            row = await session.get(PolicyRow, name)
        if row is None or not view.sees(row.created_by):
            raise NotFound(f"there is no policy {name!r}")
        return row

    async def put(self, name: str, wanted: PolicyRequest, created_by: str) -> tuple[PolicyRow, bool]:
        """The policy, and whether it is new. Raises Conflict when there are too many."""
        now = self._clock()
        async with self._database.alone() as session:
            row = await session.get(PolicyRow, name)
            new = row is None
            if row is None:
                if (await session.scalar(select(func.count()).select_from(PolicyRow)) or 0) >= MOST:
                    raise Conflict(f"there are {MOST} policies already")
                row = PolicyRow(name=name, created_at=now)
                session.add(row)
            row.content = wanted.model_dump(mode="json")
            row.created_by, row.changed_at = created_by, now
        return row, new

    async def remove(self, name: str) -> None:
        """With its runs; jobs that it made stay. Raises NotFound."""
        async with self._database.alone() as session:
            await session.execute(delete(PolicyRunRow).where(PolicyRunRow.policy == name))
            found = await session.execute(delete(PolicyRow).where(PolicyRow.name == name).returning(PolicyRow.name))
            if found.first() is None:
                raise NotFound(f"there is no policy {name!r}")

    async def runs(self, name: str, limit: int) -> Sequence[PolicyRunRow]:
        """Newest first."""
        statement = select(PolicyRunRow).where(PolicyRunRow.policy == name)
        statement = statement.order_by(PolicyRunRow.created_at.desc(), PolicyRunRow.id).limit(limit)
        async with self._database.transaction() as session:
            return (await session.scalars(statement)).all()

    async def begin(self) -> int:
        """Runs for up to a hundred models that no policy has looked at; how many models that were.

        A policy is for models that are registered after it was made, and runs once for each content of a model.
        """
        waiting = select(ModelRow).where(ModelRow.policies_due.is_(True)).order_by(ModelRow.created_at)
        waiting = waiting.limit(_MODELS_AT_ONCE)
        async with self._database.transaction() as session:
            if (await session.scalars(waiting.limit(1))).first() is None:
                return 0
        async with self._database.alone() as session:
            policies = [(row, read) for row in await session.scalars(select(PolicyRow)) if (read := policy_in(row))]
            models = (await session.scalars(waiting)).all()
            for model in models:
                for row, policy in policies:
                    if model.created_at >= row.created_at and policy.match.fits(model.id, model.tags):
                        await self._begin(session, row, policy, model)
                # Content that took its place just now is looked at in the next round.
                same = (ModelRow.id == model.id, ModelRow.digest == model.digest)
                await session.execute(update(ModelRow).where(*same).values(policies_due=None))
        return len(models)

    async def _begin(self, session: AsyncSession, row: PolicyRow, policy: PolicyRequest, model: ModelRow) -> None:
        same = (
            PolicyRunRow.policy == row.name,
            PolicyRunRow.model_id == model.id,
            PolicyRunRow.model_digest == model.digest,
        )
        if await session.scalar(select(PolicyRunRow.id).where(*same).limit(1)) is not None:
            return
        now = self._clock()
        steps = [{"step": step, "job_id": None, "error": None, "waiting_for": None} for step in steps_of(policy)]
        session.add(
            PolicyRunRow(
                id=secrets.token_hex(12),
                policy=row.name,
                model_id=model.id,
                model_digest=model.digest,
                content=row.content,
                created_by=row.created_by,
                state="open",
                steps=steps,
                due_at=now,
                created_at=now,
            )
        )

    async def due(self, limit: int) -> Sequence[PolicyRunRow]:
        """Open runs that are to be looked at, those that have waited longest first."""
        statement = select(PolicyRunRow).where(PolicyRunRow.state == "open", PolicyRunRow.due_at <= self._clock())
        async with self._database.transaction() as session:
            return (await session.scalars(statement.order_by(PolicyRunRow.due_at).limit(limit))).all()

    async def note(self, run: PolicyRunRow, steps: list[dict[str, Any]], state: State, due_at: datetime) -> None:
        """Nothing where the policy was removed meanwhile."""
        changed = update(PolicyRunRow).where(PolicyRunRow.id == run.id)
        async with self._database.transaction() as session:
            await session.execute(changed.values(steps=steps, state=state, due_at=due_at))

    async def give_up(self, run: PolicyRunRow) -> None:
        async with self._database.transaction() as session:
            await session.execute(update(PolicyRunRow).where(PolicyRunRow.id == run.id).values(state="over"))


def policy_in(row: PolicyRow) -> PolicyRequest | None:
    """None, and a line in the log, where it cannot be read."""
    try:
        return PolicyRequest.model_validate(row.content)
    except ValidationError as error:  # written by hand, or by another version
        log.error("policy %s cannot be read, so it makes nothing: put it again (%s)", row.name, error)
        return None
