"""/promotions: whether a candidate may take the place of what serves."""

from typing import Annotated, Any

from fastapi import APIRouter, Header, Request

from control.access.principal import check_may_switch
from control.access.view import Viewer
from control.jobs.queue import JobQueue
from control.jobs.runner import JobRunner
from control.jobs.submission import Idempotency, JobSubmission, NewJob
from control.promotion.kind import PromotionKind
from control.promotion.request import PromotionRequest
from control.promotion.submission import PromotionDesk
from control.routes.job_display import JobDisplay
from control.routes.job_references import JobReferences
from control.services import Given

router = APIRouter()

_LIFTED = ("decision", "reasons", "per_metric", "guards", "items", "activation")


@router.post("/promotions", status_code=202)
async def promote(
    request: PromotionRequest,
    http: Request,
    desk: Given[PromotionDesk],
    references: Given[JobReferences],
    submission: Given[JobSubmission],
    runner: Given[JobRunner],
    view: Viewer,
    key: Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)] = None,
) -> dict[str, Any]:
    """Needs the scope `admin` where a promotion is to switch by itself."""
    check_may_switch(http, switches=request.switches)
    key = view.scoped(key)
    idempotency = Idempotency.of(key, PromotionKind.type, request.model_dump(mode="json")) if key else None
    if idempotency is not None:
        present = await submission.find_by_key(idempotency)
        if present is not None:
            return {"job_id": present.id, "status": present.status, "existing": True}
    for item in request.suite:
        await references.check(view, item.model_dump(mode="json"))
    config = await desk.config_of(request, view)
    job, novelty = await submission.create(
        NewJob(
            type=PromotionKind.type,
            model_id=config.candidate.id,
            config=config.model_dump(mode="json"),
            priority=request.priority,
            idempotency=idempotency,
            view=view,
        )
    )
    runner.wake()
    return {"job_id": job.id, "status": job.status} | ({} if novelty == "new" else {novelty: True})


@router.get("/promotions/{job_id}")
async def get_promotion(
    job_id: str, queue: Given[JobQueue], display: Given[JobDisplay], view: Viewer
) -> dict[str, Any]:
    """The job; what its result says once it is done stands beside it too."""
    shown = await display.one(await queue.get(job_id, PromotionKind.type, view=view))
    return shown | {name: (shown["result"] or {}).get(name) for name in _LIFTED}
