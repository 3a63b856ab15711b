"""The engine lent to a job whose model is not active (`when_inactive: switch`), and given back when that job is over.

The loan is a row, written before the first switch: whoever finds it after a crash knows what to give back.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

from sqlalchemy import delete, select

from control.database.database import Database
from control.database.tables import ActivationRow, ActiveModelRow, JobRow, LoanRow
from control.jobs.states import LIVE

Step = Literal["keep", "give back", "forget"]


class EngineLender(Protocol):
    """Switches on behalf of jobs."""

    async def switch_to(self, model_id: str, cause: str) -> None:
        """Raises GatewayUnavailable when it can be tried again, another ServiceError when not."""
        ...


@dataclass(frozen=True, slots=True)
class Loan:
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


class LoanBook:
    """SQL of the one loan there can be."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def present(self) -> Loan | None:
        async with self._database.transaction() as session:
            row = await session.get(LoanRow, 1)
            if row is None:
                return None
            job_status = await session.scalar(select(JobRow.status).where(JobRow.id == row.job_id))
            active_id = await session.scalar(select(ActiveModelRow.model_id))
            switching = await session.scalar(select(ActivationRow.id).where(ActivationRow.status == "running").limit(1))
        return Loan(row.job_id, row.model_id, row.return_to, job_status, active_id, switching is not None)

    async def forget(self, loan: Loan) -> None:
        async with self._database.transaction() as session:
            await session.execute(delete(LoanRow).where(LoanRow.job_id == loan.job_id))
