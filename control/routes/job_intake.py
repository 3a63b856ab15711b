"""A request for a job becomes a row of the queue: checked first, and made once for each Idempotency-Key."""

import asyncio
from typing import Any

from pydantic import BaseModel

from control.access.view import View
from control.errors import NotFound
from control.jobs.runner import JobRunner
from control.jobs.submission import Idempotency, JobSubmission, NewJob
from control.models.registry import Registry
from control.promotion.kind import PromotionKind
from control.promotion.request import PromotionRequest
from control.promotion.submission import PromotionDesk
from control.routes.job_references import JobReferences
from stepserve.jobs.ports import QUEUE_FIELDS, JobKind, JobRequest
from stepserve.paths import Layout


class JobIntake:
    def __init__(
        self,
        layout: Layout,
        registry: Registry,
        references: JobReferences,
        submission: JobSubmission,
        runner: JobRunner,
        desk: PromotionDesk,
    ) -> None:
        self._layout = layout
        self._registry = registry
        self._references = references
        self._submission = submission
        self._runner = runner
        self._desk = desk

    async def make(self, kind: JobKind, request: JobRequest, key: str | None, view: View) -> dict[str, Any]:
        """Checks and takes in a job, or finds the one that was made under the same Idempotency-Key before."""
        idempotency = _idempotency(key, kind.type, request, view)
        if (present := await self._present(idempotency)) is not None:
            return present
        request = request.model_copy(update={"model_id": await self._registry.resolve(request.model_id)})
        request = await self._with_student(request)
        await self._references.check(view, request.model_dump(mode="json"))
        checked = await asyncio.to_thread(kind.check, request, self._layout.datasets)
        config = {name: value for name, value in checked.items() if name not in QUEUE_FIELDS}
        return await self._submit(
            NewJob(
                type=kind.type,
                model_id=request.model_id,
                config=config,
                priority=request.priority,
                when_inactive=request.when_inactive,
                identity=kind.identity(config),
                dedupe=request.dedupe,
                idempotency=idempotency,
                view=view,
            )
        )

    async def promote(self, request: PromotionRequest, key: str | None, view: View) -> dict[str, Any]:
        """`make` for a promotion."""
        idempotency = _idempotency(key, PromotionKind.type, request, view)
        if (present := await self._present(idempotency)) is not None:
            return present
        for item in request.suite:
            await self._references.check(view, item.model_dump(mode="json"))
        config = await self._desk.config_of(request, view)
        return await self._submit(
            NewJob(
                type=PromotionKind.type,
                model_id=config.candidate.id,
                config=config.model_dump(mode="json"),
                priority=request.priority,
                idempotency=idempotency,
                view=view,
            )
        )

    async def _present(self, idempotency: Idempotency | None) -> dict[str, Any] | None:
        present = await self._submission.find_by_key(idempotency) if idempotency is not None else None
        return None if present is None else {"job_id": present.id, "status": present.status, "existing": True}

    async def _submit(self, new: NewJob) -> dict[str, Any]:
        job, novelty = await self._submission.create(new)
        self._runner.wake()
        return {"job_id": job.id, "status": job.status} | ({} if novelty == "new" else {novelty: True})

    async def _with_student(self, request: JobRequest) -> JobRequest:
        """With the id of the model that a data generation names as its student. Raises NotFound."""
        config = getattr(request, "config", None)
        student = config.get("student") if isinstance(config, dict) else None
        if not isinstance(config, dict) or not isinstance(student, str):
            return request
        try:
            found = await self._registry.resolve(student)
        except NotFound as error:
            raise NotFound(f"config.student: {error}") from error
        return request.model_copy(update={"config": {**config, "student": found}})


def _idempotency(key: str | None, job_type: str, request: BaseModel, view: View) -> Idempotency | None:
    key = view.scoped(key)
    return Idempotency.of(key, job_type, request.model_dump(mode="json")) if key else None
