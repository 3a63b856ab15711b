"""/promotions: whether a candidate may take the place of what serves."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response

from control.access.principal import check_may_switch
from control.access.view import Viewer
from control.errors import Conflict
from control.jobs.queue import JobQueue
from control.promotion.canary import CanaryBoard
from control.promotion.kind import PromotionKind
from control.promotion.report import report_of
from control.promotion.request import PromotionRequest
from control.routes.job_display import JobDisplay
from control.routes.job_intake import JobIntake
from control.routes.reports import ReportFormat, report_response
from control.services import Given
from stepserve.paths import Layout

router = APIRouter()

_LIFTED = ("decision", "reasons", "per_metric", "guards", "items", "canary", "activation")


@router.post("/promotions", status_code=202)
async def promote(
    request: PromotionRequest,
    http: Request,
    intake: Given[JobIntake],
    view: Viewer,
    key: Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=255)] = None,
) -> dict[str, Any]:
    """Needs the scope `admin` where a promotion is to switch by itself."""
    check_may_switch(http, switches=request.switches)
    return await intake.promote(request, key, view)


@router.get("/promotions/{job_id}")
async def get_promotion(
    job_id: str, queue: Given[JobQueue], display: Given[JobDisplay], canaries: Given[CanaryBoard], view: Viewer
) -> dict[str, Any]:
    """The job, and the fields of its result once it is done. `canary`: what it sees while it runs, and how it ended."""
    job = await queue.get(job_id, PromotionKind.type, view=view)
    shown = await display.one(job)
    lifted = {name: (shown["result"] or {}).get(name) for name in _LIFTED}
    if job.status == "running":
        lifted["canary"] = canaries.of(job_id)
    return shown | lifted


@router.get("/promotions/{job_id}/report", response_model=None)
async def report(
    job_id: str, queue: Given[JobQueue], layout: Given[Layout], view: Viewer, wanted: ReportFormat = "html"
) -> Response:
    """The decision as one file for people: HTML with its charts inside, or Markdown."""
    job = await queue.get(job_id, PromotionKind.type, view=view)
    if job.status != "done" or job.result is None:
        raise Conflict(f"{job_id} is {job.status}; a promotion that is decided has a report")
    folder = layout.runs / PromotionKind.type / job.id
    return report_response(await asyncio.to_thread(report_of, job.id, job.result, folder), wanted)
