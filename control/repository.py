"""SQL of the registry: models."""

from collections.abc import Sequence

from sqlalchemy import delete, exists, select
from sqlalchemy.exc import IntegrityError

from control.db import Database
from control.errors import Conflict, NotFound
from control.tables import ActivationRow, ActiveModelRow, JobRow, ModelRow


class ModelRepository:
    """Every method is one transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, row: ModelRow) -> bool:
        """False when the id is taken, by whoever came first."""
        try:
            async with self._database.transaction() as session:
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

    async def newest_first(self) -> Sequence[ModelRow]:
        async with self._database.transaction() as session:
            statement = select(ModelRow).order_by(ModelRow.created_at.desc(), ModelRow.id.desc())
            return (await session.scalars(statement)).all()

    async def is_empty(self) -> bool:
        async with self._database.transaction() as session:
            return await session.scalar(select(ModelRow.id).limit(1)) is None

    async def remove(self, model_id: str) -> ModelRow:
        """Forgets the model. Raises NotFound; Conflict when it is, or is becoming, active or a live job names it."""
        async with self._database.transaction() as session:
            statement = (
                delete(ModelRow)
                .where(
                    ModelRow.id == model_id,
                    ~exists().where(ActiveModelRow.model_id == model_id),
                    ~exists().where(ActivationRow.model_id == model_id, ActivationRow.status == "running"),
                    ~exists().where(JobRow.model_id == model_id, JobRow.status.in_(["pending", "running"])),
                )
                .returning(ModelRow)
                .execution_options(synchronize_session=False)
            )
            removed = await session.scalar(statement)
            if removed is not None:
                return removed
            if await session.get(ModelRow, model_id) is None:
                raise NotFound(f"no model is registered as {model_id!r}")
            if await session.scalar(select(ActiveModelRow.model_id)) == model_id:
                raise Conflict(f"{model_id} is active: make another model active first")
            switching = select(ActivationRow.id).where(
                ActivationRow.model_id == model_id, ActivationRow.status == "running"
            )
            if await session.scalar(switching.limit(1)) is not None:
                raise Conflict(f"a switch to {model_id} is running")
            raise Conflict(f"{model_id} is used by a job that is not over: cancel it or wait")
