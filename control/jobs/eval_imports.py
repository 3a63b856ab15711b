"""Runs of other harnesses, taken in as eval jobs that are done: they can be looked at, compared and reported."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

from sqlalchemy.exc import IntegrityError

from control.clock import Clock, utc_now
from control.database.database import Database
from control.database.tables import JobRow
from control.errors import Conflict, ServiceError
from control.jobs.submission import new_job_id
from control.models.repository import ModelRepository
from stepserve.jobs.eval_ports import EvalReports, Harness
from stepserve.request_id import key_id, request_id

_EVAL = "eval"


class EvalImports:
    def __init__(self, database: Database, models: ModelRepository, runs_dir: Path, clock: Clock = utc_now) -> None:
        self._database = database
        self._models = models
        self._runs_dir = runs_dir
        self._clock = clock

    async def take(
        self, reports: EvalReports, body: bytes, harness: Harness, metric: str | None, *, model_id: str, name: str
    ) -> JobRow:
        """Its files are there before its row is. Raises NotFound (the model), Invalid (the log)."""
        model = await self._models.get(model_id)
        now = self._clock()
        job_id = new_job_id(_EVAL, now)
        run_dir = self._runs_dir / job_id
        config, result = await reports.take_in(
            body, harness, metric, model_id=model.id, digest=model.digest, name=name, run_dir=run_dir
        )
        job = self._row(job_id, model.id, model.digest, config, result)
        try:
            async with self._database.transaction() as session:
                session.add(job)
        except IntegrityError as error:  # the same id in the same second, once in a million
            raise Conflict("a job of the same id was made in this very moment: try again") from error
        except ServiceError:  # without a row its files would stay for ever
            await asyncio.to_thread(shutil.rmtree, run_dir, ignore_errors=True)
            raise
        return job

    def _row(self, job_id: str, model_id: str, digest: str, config: dict[str, Any], result: dict[str, Any]) -> JobRow:
        now = self._clock()
        return JobRow(
            id=job_id,
            type=_EVAL,
            model_id=model_id,
            model_digest=digest,
            status="done",
            config=config,
            result=result,
            attempt=0,
            failures=0,
            progress_done=result["total_samples"],
            progress_total=result["total_samples"],
            request_id=request_id.get(),
            created_by=key_id.get(),
            created_at=now,
            started_at=now,
            finished_at=now,
            unannounced=None,
        )
