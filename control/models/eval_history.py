"""Evals that are done, from the database."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select

from control.access.view import View
from control.database.count_tables import JobCountRow, n_jobs
from control.database.database import Database
from control.database.json_text import json_text
from control.database.tables import JobRow, ModelRow
from control.errors import Conflict, NotFound
from stepserve.jobs.eval_ports import DoneEval

_EVAL = "eval"
_LOOKED_THROUGH = 2000
_MOST_ALIKE = 10
_NEWEST_FIRST = (JobRow.created_at.desc(), JobRow.id.desc())
_ENDINGS = ("", ".gz", ".jsonl", ".jsonl.gz")


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
        return self._done(job, job.result)

    async def alike(self, done: DoneEval, series: Callable[[dict[str, Any]], str], view: View) -> list[DoneEval]:
        """The newest other evals that are done of the same weights and `series`."""
        statement = (
            select(JobRow)
            .where(JobRow.type == _EVAL, JobRow.status == "done", JobRow.model_digest == done.model_digest)
            .where(JobRow.id != done.job_id, view.rows(JobRow.created_by))
            .order_by(*_NEWEST_FIRST)
            .limit(_LOOKED_THROUGH)
        )
        async with self._database.transaction() as session:
            rows = (await session.scalars(statement)).all()

        def look() -> list[DoneEval]:
            wanted, found = series(done.config), list[DoneEval]()
            for row in rows:
                try:
                    if row.result is not None and series(row.config) == wanted:
                        found.append(self._done(row, row.result))
                except (ValueError, TypeError):  # an older version's, or written by hand
                    continue
                if len(found) == _MOST_ALIKE:
                    break
            return found

        return await asyncio.to_thread(look)  # a config takes some tenths of a millisecond

    def _done(self, job: JobRow, result: dict[str, Any]) -> DoneEval:
        return DoneEval(
            job_id=job.id,
            model_id=job.model_id,
            model_digest=job.model_digest,
            config=job.config,
            result=result,
            run_dir=self._runs_dir / job.id,
            finished_at=job.finished_at or job.created_at,
        )

    async def by_dataset(self, name: str, view: View) -> dict[str, list[str]]:
        """Of the dataset of that name, by its digest then, the evals that are done: the newest of all first."""
        dataset = [json_text(JobRow.config, "dataset", key).label(key) for key in ("name", "digest")]
        newest = (
            select(JobRow.id, JobRow.created_at, *dataset)
            .where(_done_evals(view, None))
            .order_by(*_NEWEST_FIRST)
            .limit(_LOOKED_THROUGH)
            .subquery()
        )
        statement = select(newest.c.id, newest.c.digest).where(newest.c.name == name)
        found: dict[str, list[str]] = {}
        async with self._database.transaction() as session:
            for job_id, digest in await session.execute(
                statement.order_by(newest.c.created_at.desc(), newest.c.id.desc())
            ):
                found.setdefault(str(digest), []).append(job_id)
        return found

    async def newest(
        self, limit: int, view: View, dataset: str | None = None, offset: int = 0
    ) -> Sequence[HistoryEntry]:
        """`dataset`: its name, with or without its endings, or its digest."""
        same = (ModelRow.id == JobRow.model_id) & (ModelRow.digest == JobRow.model_digest)
        statement = (
            select(JobRow, ModelRow.step)
            .outerjoin(ModelRow, same)
            .where(_done_evals(view, dataset))
            .order_by(*_NEWEST_FIRST)
            .offset(offset)
            .limit(limit)
        )
        async with self._database.transaction() as session:
            return [HistoryEntry(job, step) for job, step in (await session.execute(statement)).all()]

    async def count(self, view: View, dataset: str | None = None) -> int:
        async with self._database.transaction() as session:
            if dataset is not None:
                counted = select(func.count()).select_from(JobRow).where(_done_evals(view, dataset))
            else:
                seen = view.rows(JobCountRow.created_by)
                counted = n_jobs(seen, JobCountRow.type == _EVAL, JobCountRow.status == "done")
            return await session.scalar(counted) or 0


def _done_evals(view: View, dataset: str | None) -> ColumnElement[bool]:
    wanted = and_(JobRow.type == _EVAL, JobRow.status == "done", view.rows(JobRow.created_by))
    if dataset is None:
        return wanted
    name, digest = (json_text(JobRow.config, "dataset", key) for key in ("name", "digest"))
    return and_(wanted, or_(name.in_([f"{dataset}{ending}" for ending in _ENDINGS]), digest == dataset))
