"""The routes of one kind of job: making one, and looking at one."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from pydantic import ValidationError

from control.access.view import View, Viewer
from control.errors import Invalid
from control.jobs.submission import Idempotency, NewJob
from control.routes.job_references import check_references
from control.routes.jobs import show_one
from control.services import Services, Wired
from stepserve.jobs.ports import QUEUE_FIELDS, JobKind, JobRequest
from stepserve.readable import readable


def router_of(kind: JobKind) -> APIRouter:
    """POST {route}/jobs and GET {route}/jobs/{id}. The body is the kind's to define, so it is parsed here."""
    router = APIRouter()

    # The gateway's document of all routes takes the definitions inside to where references look for them.
    schema = {"application/json": {"schema": kind.request_model.model_json_schema()}}

    @router.post(f"{kind.route}/jobs", openapi_extra={"requestBody": {"required": True, "content": schema}})
    async def create(
        http: Request,
        services: Wired,
        view: Viewer,
        key: Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)] = None,
    ) -> dict[str, Any]:
        try:
            request = kind.request_model.model_validate_json(await http.body())
        except ValidationError as error:
            raise Invalid(readable(error.errors())) from error
        return await make_job(services, kind, request, key, view)

    @router.get(f"{kind.route}/jobs/{{job_id}}")
    async def get_one(job_id: str, services: Wired, view: Viewer) -> dict[str, Any]:
        return await show_one(await services.queue.get(job_id, kind.type, view=view), services)

    return router


async def make_job(
    services: Services, kind: JobKind, request: JobRequest, key: str | None, view: View
) -> dict[str, Any]:
    """Checks and takes in a job, or finds the one that was made under the same Idempotency-Key before."""
    key = view.scoped(key)
    idempotency = Idempotency.of(key, kind.type, request.model_dump(mode="json")) if key else None
    if idempotency is not None:
        present = await services.submission.find_by_key(idempotency)
        if present is not None:
            return {"job_id": present.id, "status": present.status, "existing": True}
    request = request.model_copy(update={"model_id": await services.registry.resolve(request.model_id)})
    await check_references(services, view, request.model_dump(mode="json"))
    checked = await asyncio.to_thread(kind.check, request, services.layout.datasets)
    config = {name: value for name, value in checked.items() if name not in QUEUE_FIELDS}
    job, novelty = await services.submission.create(
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
    services.runner.wake()
    return {"job_id": job.id, "status": job.status} | ({} if novelty == "new" else {novelty: True})
