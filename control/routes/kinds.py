"""The routes of one kind of job: making one, and looking at one."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from pydantic import ValidationError

from control.access.view import Viewer
from control.errors import Invalid
from control.jobs.queue import JobQueue
from control.routes.job_display import JobDisplay
from control.routes.job_intake import JobIntake
from control.services import Given
from stepserve.jobs.ports import JobKind
from stepserve.readable import readable


def router_of(kind: JobKind) -> APIRouter:
    """POST {route}/jobs and GET {route}/jobs/{id}. The body is the kind's to define, so it is parsed here."""
    router = APIRouter()

    # The gateway's document of all routes takes the definitions inside to where references look for them.
    schema = {"application/json": {"schema": kind.request_model.model_json_schema()}}

    @router.post(f"{kind.route}/jobs", openapi_extra={"requestBody": {"required": True, "content": schema}})
    async def create(
        http: Request,
        intake: Given[JobIntake],
        view: Viewer,
        key: Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)] = None,
    ) -> dict[str, Any]:
        try:
            request = kind.request_model.model_validate_json(await http.body())
        except ValidationError as error:
            raise Invalid(readable(error.errors())) from error
        return await intake.make(kind, request, key, view)

    @router.get(f"{kind.route}/jobs/{{job_id}}")
    async def get_one(job_id: str, queue: Given[JobQueue], display: Given[JobDisplay], view: Viewer) -> dict[str, Any]:
        return await display.one(await queue.get(job_id, kind.type, view=view))

    return router
