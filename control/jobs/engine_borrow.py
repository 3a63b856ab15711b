"""The engine borrowed by a job whose model is not active (`when_inactive: switch`), and given back after that job.

The borrow is a row, written before the first switch: whoever finds it after a crash knows what to give back.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

from sqlalchemy import delete, select

from control.activation.activator import Activator
from control.activation.wishes import SwitchWish
from control.database.database import Database
from control.database.tables import ActivationRow, ActiveModelRow, EngineBorrowRow, JobRow
from control.errors import Conflict, GatewayUnavailable
from control.jobs.states import LIVE

Step = Literal["keep", "give back", "forget"]


class EngineSwitcher(Protocol):
    """Switches the active model on behalf of jobs."""

    async def switch_to(self, model_id: str, cause: str) -> None:
        """Raises GatewayUnavailable when it can be tried again, another ServiceError when not."""
        ...


@dataclass(frozen=True, slots=True)
class EngineBorrow:
    """`job_status` None: the job's row is gone. `switching`: a switch runs, or nobody knows yet how it ended."""

    job_id: str
    model_id: str
    return_to: str | None
    job_status: str | None
    active_id: str | None
    switching: bool

    def next_step(self) -> Step:
        if self.switching or self.job_status == "running":
            return "keep"
        if self.active_id != self.model_id:
            return "forget"  # never borrowed, given back already, or somebody switched meanwhile and knows better
        if self.job_status in LIVE:
            return "keep"
        return "forget" if self.return_to is None else "give back"


class EngineBorrows:
    """SQL of the one borrow there can be."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def present(self) -> EngineBorrow | None:
        async with self._database.transaction() as session:
            row = await session.get(EngineBorrowRow, 1)
            if row is None:
                return None
            job_status = await session.scalar(select(JobRow.status).where(JobRow.id == row.job_id))
            active_id = await session.scalar(select(ActiveModelRow.model_id))
            switching = await session.scalar(select(ActivationRow.id).where(ActivationRow.status == "running").limit(1))
        return EngineBorrow(row.job_id, row.model_id, row.return_to, job_status, active_id, switching is not None)

    async def forget(self, borrow: EngineBorrow) -> None:
        async with self._database.transaction() as session:
            await session.execute(delete(EngineBorrowRow).where(EngineBorrowRow.job_id == borrow.job_id))


class ActivatorSwitcher:
    """The Activator as EngineSwitcher."""

    def __init__(self, activator: Activator) -> None:
        self._activator = activator

    async def switch_to(self, model_id: str, cause: str) -> None:
        try:
            await self._activator.set_active(model_id, SwitchWish(spares_pushed=True), cause=cause)
        except Conflict as error:  # another switch runs, or weights were pushed: it will be over
            raise GatewayUnavailable(str(error)) from error
