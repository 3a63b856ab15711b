"""/eval/tasks: task files of lm-eval and inspect-ai, run as eval jobs."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from pydantic import ValidationError

from control.access.principal import check_may_run_tasks
from control.access.view import Viewer
from control.errors import Invalid
from control.routes.job_intake import JobIntake
from control.services import Given
from stepserve.jobs.eval_ports import TaskFileJobs
from stepserve.readable import readable


def router_of(tasks: TaskFileJobs) -> APIRouter:
    router = APIRouter()
    schema = {"application/json": {"schema": tasks.request_model.model_json_schema()}}

    @router.get("/eval/tasks")
    async def listing() -> dict[str, Any]:
        """The task files that the machine's owner has put into `tasks/`, and which harnesses are installed."""
        return await tasks.listing()

    @router.post("/eval/tasks", openapi_extra={"requestBody": {"required": True, "content": schema}})
    async def create(
        http: Request,
        intake: Given[JobIntake],
        view: Viewer,
        key: Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)] = None,
    ) -> dict[str, Any]:
        """Makes an eval job that runs a task file. Needs the scope that the setting `task_files.run_by` names."""
        check_may_run_tasks(http, tasks.run_by)
        try:
            request = tasks.request_model.model_validate_json(await http.body())
        except ValidationError as error:
            raise Invalid(readable(error.errors())) from error
        return await intake.make(tasks, request, key, view)

    return router
