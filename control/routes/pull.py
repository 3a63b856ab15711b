"""POST /pull: a model from a hub, as a job."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Header

from control.jobs.runner import JobRunner
from control.jobs.submission import Idempotency, JobSubmission, NewJob
from control.models.registry import Registry
from control.pull.kind import PullKind
from control.pull.request import PullRequest
from control.services import Given

router = APIRouter()


@router.post("/pull", status_code=202)
async def pull(
    request: PullRequest,
    registry: Given[Registry],
    submission: Given[JobSubmission],
    runner: Given[JobRunner],
    key: Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)] = None,
) -> dict[str, Any]:
    """The same pull asked for while one runs is that one; another of the same id meanwhile is a 409."""
    await registry.check_id(request.model_id)
    if request.chat_template is not None:
        await asyncio.to_thread(registry.templates.text, request.chat_template)
    await registry.check_engine(request.engine)
    body = request.model_dump(mode="json")
    config = {name: value for name, value in body.items() if name != "priority"}
    job, novelty = await submission.create(
        NewJob(
            type=PullKind.type,
            model_id=request.model_id,
            config=config,
            priority=request.priority,
            identity=config,
            idempotency=Idempotency.of(key, PullKind.type, body) if key else None,
            standalone=True,
        )
    )
    runner.wake()
    answer = {"status": "accepted", "job_id": job.id, "model_id": request.model_id}
    return answer | ({} if novelty == "new" else {novelty: True})
