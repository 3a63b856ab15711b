"""The routes of one kind of job: making one, and looking at one."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from pydantic import ValidationError

from control.errors import Invalid
from control.jobs.queue import Idempotency
from control.jobs.view import show
from control.ports import JobKind
from control.routes.errors import readable
from control.services import Wired


def router_of(kind: JobKind) -> APIRouter:
    """POST {route}/jobs and GET {route}/jobs/{id}. The body is the kind's to define, so it is parsed here."""
    router = APIRouter()

    @router.post(f"{kind.route}/jobs")
    async def create(
        http: Request,
        services: Wired,
        key: Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)] = None,
    ) -> dict[str, Any]:
        try:
            request = kind.request_model.model_validate_json(await http.body())
        except ValidationError as error:
            raise Invalid(readable(error.errors())) from error
        idempotency = Idempotency.of(key, kind.type, request.model_dump(mode="json")) if key else None
        if idempotency is not None:
            present = await services.queue.find_by_key(idempotency)
            if present is not None:
                return {"job_id": present.id, "status": present.status, "existing": True}
        request = request.model_copy(update={"model_id": await services.registry.resolve(request.model_id)})
        config = await asyncio.to_thread(kind.check, request, services.layout.datasets)
        job, is_new = await services.queue.create(kind.type, request.model_id, config, idempotency)
        services.worker.wake()
        return {"job_id": job.id, "status": job.status} | ({} if is_new else {"existing": True})

    @router.get(f"{kind.route}/jobs/{{job_id}}")
    async def get_one(job_id: str, services: Wired) -> dict[str, Any]:
        active = await services.history.active()
        return show(await services.queue.get(job_id, kind.type), active.id if active else None)

    return router
