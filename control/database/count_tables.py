"""The table of how many jobs there are: triggers keep it (migration 0022), so that nobody counts a million rows."""

from sqlalchemy import ColumnElement, Select, func, select
from sqlalchemy.orm import Mapped, mapped_column

from control.database.tables import Base


class JobCountRow(Base):
    """Written by the database alone, in the transaction that changes the jobs, whoever changes them. `created_by` is ""
    for jobs that no key asked for. A row stays when its number falls to 0.
    """

    __tablename__ = "job_counts"

    type: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(primary_key=True)
    created_by: Mapped[str] = mapped_column(primary_key=True)
    n_jobs: Mapped[int]


def n_jobs(*which: ColumnElement[bool]) -> Select[int]:
    """How many jobs there are in the rows of JobCountRow that fit."""
    return select(func.coalesce(func.sum(JobCountRow.n_jobs), 0)).where(*which)
