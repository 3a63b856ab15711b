"""SQL of the registry: models."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from sqlalchemy import CursorResult, exists, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from control.database.database import Database
from control.database.tables import ActivationRow, ActiveModelRow, JobRow, ModelRow
from control.errors import Conflict, Invalid, NotFound
from control.models.placed_folders import PlacedFolders

_NEWEST_FIRST = (ModelRow.created_at.desc(), ModelRow.id.desc())
_AT_ONCE = 200


class ModelRepository:
    """Every method is one transaction."""

    def __init__(self, database: Database, placed: PlacedFolders) -> None:
        self._database = database
        self._placed = placed

    async def add(self, row: ModelRow) -> bool:
        """False when the id is taken, by whoever came first. Raises Invalid when an adapter's base is gone."""
        try:
            async with self._database.alone() as session:
                if row.base_model is not None and await session.get(ModelRow, row.base_model) is None:
                    raise Invalid(f"base_model: {row.base_model} was deleted meanwhile")
                session.add(row)
        except IntegrityError:
            return False
        return True

    async def find(self, model_id: str) -> ModelRow | None:
        async with self._database.transaction() as session:
            return await session.get(ModelRow, model_id)

    async def get(self, model_id: str) -> ModelRow:
        """Raises NotFound."""
        row = await self.find(model_id)
        if row is None:
            raise NotFound(f"no model is registered as {model_id!r}: see GET /models, or POST /models/register")
        return row

    async def replace(self, row: ModelRow, *, before: str | None, going: Path | None = None) -> None:
        """Writes the row, of other content, in place of the one with its id; the folder `going` is to be removed next.

        With `before` (a digest) only while that one still has it, no switch to it runs and no live job names it, else
        Conflict is raised.
        """
        values = {
            column.name: getattr(row, column.name) for column in ModelRow.__table__.columns if column.name != "id"
        }
        values["policies_due"] = True
        statement = update(ModelRow).where(ModelRow.id == row.id).values(values)
        if before is not None:
            statement = statement.where(
                ModelRow.digest == before,
                ~exists().where(ActivationRow.model_id == row.id, ActivationRow.status == "running"),
                ~exists().where(JobRow.model_id == row.id, JobRow.status.in_(["pending", "running"])),
            )
        async with self._database.transaction() as session:
            changed = await session.execute(statement.execution_options(synchronize_session=False))
            if cast("CursorResult[Any]", changed).rowcount == 0:
                raise Conflict(f"{row.id} was changed, or taken into use, meanwhile: try again")
            if going is not None:
                await self._placed.mark_going(session, going)

    async def live_job_of(self, model_id: str) -> str | None:
        """The id of a pending or running job of the model, or that compares another one with it."""
        async with self._database.transaction() as session:
            return await _live_job_of(session, model_id)

    async def set_engine(self, model_id: str, engine: dict[str, Any] | None) -> None:
        """Changes what the model's engine is started with; one that runs is left as it is."""
        async with self._database.transaction() as session:
            await session.execute(update(ModelRow).where(ModelRow.id == model_id).values(engine=engine))

    async def set_keep_alive(self, model_id: str, keep_alive_s: float | None) -> None:
        """Raises NotFound."""
        statement = update(ModelRow).where(ModelRow.id == model_id).values(keep_alive_s=keep_alive_s)
        async with self._database.transaction() as session:
            changed = await session.execute(statement.execution_options(synchronize_session=False))
        if cast("CursorResult[Any]", changed).rowcount == 0:
            raise NotFound(f"no model is registered as {model_id!r}: see GET /models, or POST /models/register")

    async def note_template(self, row: ModelRow, has_template: bool) -> None:
        """Writes down whether its files bring a chat template, unless that is noted or it has other content now."""
        same = (ModelRow.id == row.id, ModelRow.digest == row.digest, ModelRow.has_template.is_(None))
        async with self._database.transaction() as session:
            await session.execute(update(ModelRow).where(*same).values(has_template=has_template))

    async def newest_first(self) -> AsyncIterator[Sequence[ModelRow]]:
        """All of one moment, some at a time, so that others are answered between."""
        statement = select(ModelRow).order_by(*_NEWEST_FIRST).execution_options(yield_per=_AT_ONCE)
        async with self._database.transaction() as session:
            async for rows in (await session.stream_scalars(statement)).partitions():
                yield rows

    async def bases(self) -> dict[str, ModelRow]:
        """The models that adapters adapt, by their ids."""
        named = select(ModelRow.base_model).where(ModelRow.base_model.is_not(None))
        async with self._database.transaction() as session:
            return {row.id: row for row in await session.scalars(select(ModelRow).where(ModelRow.id.in_(named)))}

    async def names(self) -> Sequence[tuple[str, str, datetime]]:
        """Id, source and time of registration of every model, newest first."""
        statement = select(ModelRow.id, ModelRow.source, ModelRow.created_at).order_by(*_NEWEST_FIRST)
        async with self._database.transaction() as session:
            return [(name, source, at) for name, source, at in await session.execute(statement)]

    async def folders(self) -> list[Path]:
        """Every model's, newest first."""
        async with self._database.transaction() as session:
            return [Path(path) for path in await session.scalars(select(ModelRow.path).order_by(*_NEWEST_FIRST))]

    async def in_folder(self, folder: Path, besides: str | None = None) -> str | None:
        """The id of a model, other than `besides`, whose files lie in the folder or below it."""
        within = or_(ModelRow.path == str(folder), ModelRow.path.startswith(f"{folder}/", autoescape=True))
        async with self._database.transaction() as session:
            found = await session.execute(
                select(ModelRow.id, ModelRow.path).where(within, ModelRow.id != (besides or ""))
            )
            # SQLite's LIKE takes `A` for `a`.
            return next((name for name, path in found if Path(path).is_relative_to(folder)), None)

    async def has_content(self, digest: str) -> bool:
        """Whether a model of that content is registered."""
        async with self._database.transaction() as session:
            return await session.scalar(select(ModelRow.id).where(ModelRow.digest == digest).limit(1)) is not None

    async def without_template_note(self) -> Sequence[ModelRow]:
        """Those of which it is not known whether their files bring a chat template."""
        async with self._database.transaction() as session:
            return (await session.scalars(select(ModelRow).where(ModelRow.has_template.is_(None)))).all()

    async def is_empty(self) -> bool:
        async with self._database.transaction() as session:
            return await session.scalar(select(ModelRow.id).limit(1)) is None

    async def remove(self, model_id: str, *, going: Path | None = None, dry_run: bool = False) -> ModelRow:
        """Forgets the model; with `going`, its folder, only where it still lies there.

        Raises NotFound; Conflict when it is, or is becoming, active, a live job names it or adapters build on it.
        With `dry_run` it only raises.
        """
        async with self._database.alone() as session:
            row = await session.get(ModelRow, model_id)
            if row is None:
                raise NotFound(f"no model is registered as {model_id!r}")
            await self._check_unused(session, model_id)
            if going is not None and row.path != str(going):
                raise Conflict(f"{model_id} was changed meanwhile: try again")
            if not dry_run:
                await session.delete(row)
                if going is not None:
                    await self._placed.mark_going(session, going)
            return row

    async def _check_unused(self, session: AsyncSession, model_id: str) -> None:
        adapters = (await session.scalars(select(ModelRow.id).where(ModelRow.base_model == model_id))).all()
        if adapters:
            raise Conflict(f"{model_id} is the base of {', '.join(adapters)}: remove those first")
        if await session.scalar(select(ActiveModelRow.model_id)) == model_id:
            raise Conflict(f"{model_id} is active: make another model active first")
        switching = select(ActivationRow.id).where(
            ActivationRow.model_id == model_id, ActivationRow.status == "running"
        )
        if await session.scalar(switching.limit(1)) is not None:
            raise Conflict(f"a switch to {model_id} is running")
        job_id = await _live_job_of(session, model_id)
        if job_id is not None:
            raise Conflict(f"{model_id} is used by a job that is not over: cancel {job_id} or wait")


async def _live_job_of(session: AsyncSession, model_id: str) -> str | None:
    live = JobRow.status.in_(["pending", "running"])
    found = await session.scalar(select(JobRow.id).where(JobRow.model_id == model_id, live).limit(1))
    if found is not None:
        return found
    promotions = select(JobRow.id, JobRow.config).where(JobRow.type == "promotion", live)
    for job_id, config in await session.execute(promotions):
        baseline = config.get("baseline")
        if isinstance(baseline, dict) and baseline.get("id") == model_id and config.get("baseline_run") is None:
            return str(job_id)
    return None
