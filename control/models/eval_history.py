"""Evals that are done, from the database."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from control.access.view import View
from control.database.database import Database
from control.database.tables import JobRow, ModelRow
from control.errors import Conflict, NotFound
from stepserve.jobs.eval_ports import DoneEval

_EVAL = "eval"


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """`step`: the training step of the model, while a model of the same id and content is registered."""

    job: JobRow
    step: int | None


class EvalHistory:
    def __init__(self, database: Database, runs_dir: Path) -> None:
        self._database = database
        self._runs_dir = runs_dir

    async def done(self, job_id: str, what: str, view: View) -> DoneEval:
        """`what` names the parameter in errors. Raises NotFound, for what `view` does not see too; Conflict."""
        async with self._database.transaction() as session:
            job = await session.get(JobRow, job_id)
        if job is None or job.type != _EVAL or not view.sees(job.created_by):
            raise NotFound(f"{what}: no eval job is called {job_id!r}")
        if job.status != "done" or job.result is None:
            raise Conflict(f"{what}: {job_id} is {job.status}; only an eval that is done can be looked into")
        return DoneEval(
            job_id=job.id,
            model_id=job.model_id,
            model_digest=job.model_digest,
            config=job.config,
            result=job.result,
            run_dir=self._runs_dir / job.id,
        )

    async def newest(self, limit: int, view: View) -> Sequence[HistoryEntry]:
        same = (ModelRow.id == JobRow.model_id) & (ModelRow.digest == JobRow.model_digest)
        statement = (
            select(JobRow, ModelRow.step)
            .outerjoin(ModelRow, same)
            .where(JobRow.type == _EVAL, JobRow.status == "done", view.rows(JobRow.created_by))
            .order_by(JobRow.created_at.desc(), JobRow.id.desc())
            .limit(limit)
        )
        async with self._database.transaction() as session:
            return [HistoryEntry(job, step) for job, step in (await session.execute(statement)).all()]
