"""/eval/compare, /eval/history, and rescore and samples of an eval: what can be said without an engine."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError

from control.access.view import Viewer
from control.clock import iso
from control.jobs.eval_imports import EvalImports
from control.models.eval_history import EvalHistory, HistoryEntry
from control.routes.reports import ReportFormat, report_response
from control.services import Given
from stepserve.jobs.eval_ports import EvalReports, ExportFormat, Harness, SampleQuery, Verdict

_NAMED = (
    "accuracy", "accuracy_stderr", "accuracy_ci95", "correct", "total_samples", "errors", "avg_loss", "perplexity",
)  # fmt: skip
_DIGESTS = ("dataset_digest", "template_digest")


def router_of(reports: EvalReports) -> APIRouter:
    router = APIRouter()
    schema = {"application/json": {"schema": reports.rescore_model.model_json_schema()}}

    @router.get("/eval/compare")
    async def compare(
        a: str, b: str, eval_history: Given[EvalHistory], view: Viewer, metric: str | None = None
    ) -> dict[str, Any]:
        first, second = await eval_history.done(a, "a", view), await eval_history.done(b, "b", view)
        return await reports.compare(first, second, metric)

    @router.get("/eval/jobs/{job_id}/samples")
    async def samples(
        job_id: str,
        eval_history: Given[EvalHistory],
        view: Viewer,
        verdict: Verdict | None = None,
        text: Annotated[str, Query(max_length=1000)] = "",
        sample_id: Annotated[list[str] | None, Query(alias="id", max_length=1000)] = None,
        offset: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=1000)] = 50,
        finish_reason: Annotated[str | None, Query(max_length=100)] = None,
        min_tokens: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
        max_tokens: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
        metric: Annotated[str | None, Query(max_length=200)] = None,
        min_score: float | None = None,
        max_score: float | None = None,
        changed_from: str | None = None,
    ) -> dict[str, Any]:
        """What the engine failed on first, then wrong answers, then right ones, each in the dataset's order.

        `min_tokens` and `max_tokens` are of the answer, `min_score` and `max_score` by `metric`. `changed_from`:
        another eval; only samples whose verdict was another one there, which is `verdict_before`.

        `flaky`: whether the `answer`, or also the `verdict`, differs between identical runs.
        """
        done = await eval_history.done(job_id, "job_id", view)
        before = None if changed_from is None else await eval_history.done(changed_from, "changed_from", view)
        wanted = SampleQuery(
            verdict,
            text,
            frozenset(sample_id or ()),
            offset,
            limit,
            finish_reason,
            min_tokens,
            max_tokens,
            metric,
            min_score,
            max_score,
        )
        return await reports.samples(done, wanted, await eval_history.alike(done, reports.series, view), before)

    @router.get("/eval/jobs/{job_id}/report", response_model=None)
    async def report(
        job_id: str, eval_history: Given[EvalHistory], view: Viewer, wanted: ReportFormat = "html"
    ) -> Response:
        """The eval as one file for people: HTML with its charts inside, or Markdown."""
        return report_response(await reports.report(await eval_history.done(job_id, "job_id", view)), wanted)

    @router.get("/eval/jobs/{job_id}/export", response_model=None)
    async def export(
        job_id: str,
        eval_history: Given[EvalHistory],
        view: Viewer,
        wanted: Annotated[ExportFormat, Query(alias="format")] = "inspect",
    ) -> Response:
        """The run as a file that inspect-ai, or what reads lm-eval's files, reads."""
        content, name = await reports.export(await eval_history.done(job_id, "job_id", view), wanted)
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        media_type = "application/jsonl" if name.endswith(".jsonl") else "application/json"
        return Response(content, media_type=media_type, headers=headers)

    @router.post("/eval/imports", status_code=201)
    async def take(
        http: Request,
        imports: Given[EvalImports],
        model_id: Annotated[str, Query(min_length=1, max_length=1000)],
        harness: Annotated[Harness, Query(alias="format")],
        name: Annotated[str, Query(min_length=1, max_length=1000)] = "imported",
        metric: Annotated[str | None, Query(max_length=200)] = None,
    ) -> dict[str, Any]:
        """The body is an inspect-ai log in JSON, or lm-eval's samples file: an eval job that is done."""
        job = await imports.take(reports, await http.body(), harness, metric, model_id=model_id, name=name)
        return {"job_id": job.id, "status": job.status, "result": job.result}

    @router.get("/eval/jobs/{job_id}/flaky")
    async def flaky(job_id: str, eval_history: Given[EvalHistory], view: Viewer) -> dict[str, Any]:
        """The questions whose answers differ between this and other runs of the same weights, asked the same."""
        done = await eval_history.done(job_id, "job_id", view)
        return await reports.flaky(done, await eval_history.alike(done, reports.series, view))

    @router.post("/eval/jobs/{job_id}/rescore", openapi_extra={"requestBody": {"required": True, "content": schema}})
    async def rescore(job_id: str, http: Request, eval_history: Given[EvalHistory], view: Viewer) -> dict[str, Any]:
        """Other metrics of the answers that were given already."""
        done = await eval_history.done(job_id, "job_id", view)
        return await reports.rescore(done, await http.body())

    @router.get("/eval/history")
    async def history(
        eval_history: Given[EvalHistory],
        view: Viewer,
        dataset: str | None = None,
        offset: Annotated[int, Query(ge=0, lt=2**31)] = 0,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    ) -> dict[str, Any]:
        """By step, those without one by time; `series` is equal where settings and dataset content are.

        They are the `limit` newest of `total` after the first `offset`.

        `left_out` has the evals whose errors were more than allowed: their numbers say nothing of the model.
        """
        entries = await eval_history.newest(limit, view, dataset, offset)
        points, left_out = await asyncio.to_thread(_points, entries, reports)  # each takes some tenths of a millisecond
        total = await eval_history.count(view, dataset)
        return {"dataset": dataset, "points": points, "left_out": left_out, "total": total}

    return router


def _points(entries: Sequence[HistoryEntry], reports: EvalReports) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """In their order on a chart, and those that are left out with the reason."""
    points, left_out = [], []
    for entry in entries:
        try:
            reason = reports.spoilt(entry.job.config, entry.job.result or {})
            if reason is None:
                points.append(_point(entry, reports.series(entry.job.config), reports))
        except (ValidationError, TypeError):
            reason = "its row cannot be read by this version"
        if reason is not None:
            left_out.append({"job_id": entry.job.id, "model_id": entry.job.model_id, "reason": reason})
    points.sort(key=lambda point: (point["series"], point["step"] is None, point["step"] or 0, point["created_at"]))
    return points, left_out


def _point(entry: HistoryEntry, series: str, reports: EvalReports) -> dict[str, Any]:
    job, result = entry.job, entry.job.result or {}
    metrics = result.get("metrics") or {}
    return {
        "job_id": job.id,
        "name": job.config.get("name"),
        "model_id": job.model_id,
        "model_digest": job.model_digest,
        "step": entry.step,
        "dataset": job.config.get("dataset", {}).get("name"),
        "series": series,
        "created_at": iso(job.created_at),
        "completed_at": iso(job.finished_at),
        "accuracy_metric": result.get("accuracy_metric"),
        **{key: result.get(key) for key in (*_NAMED, *_DIGESTS)},
        "metrics": {name: value.get("mean") for name, value in metrics.items()},
        "metrics_ci95": {name: value.get("ci95") for name, value in metrics.items()},
        "saturated": reports.saturation(result),
        "energy_j": (result.get("energy") or {}).get("joules"),
    }
