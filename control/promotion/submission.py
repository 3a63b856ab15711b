"""From a request to the config of a promotion that can run: models, suite, and answers that are there already."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from sqlalchemy import select

from control.access.view import EVERYTHING, View
from control.database.database import Database
from control.database.tables import JobRow
from control.errors import Conflict, Invalid, NotFound
from control.models.activation_log import ActivationLog
from control.models.eval_history import EvalHistory
from control.models.registry import Registry
from control.models.repository import ModelRepository
from control.promotion.canary_request import CanaryRequest
from control.promotion.files import BASELINE_FILE, CANDIDATE_FILE, REUSED_FILE
from control.promotion.kind import PromotionKind
from control.promotion.request import LATENCY, Named, PromotionConfig, PromotionRequest, StoredSet, sets_of
from evals.kind import EvalKind
from evals.request import EvalConfig
from evals.samples_log import SAMPLES_FILE
from stepserve.contract import ACTIVE_ALIAS
from stepserve.jobs.eval_ports import DoneEval

_LOOKED_THROUGH = 200
_MOST_SOURCES = 10


class PromotionDesk:
    def __init__(
        self,
        database: Database,
        registry: Registry,
        models: ModelRepository,
        activations: ActivationLog,
        evals: EvalHistory,
        evaluations: EvalKind,
        datasets_dir: Path,
    ) -> None:
        self._database = database
        self._registry = registry
        self._models = models
        self._activations = activations
        self._evals = evals
        self._evaluations = evaluations
        self._datasets_dir = datasets_dir

    async def config_of(self, request: PromotionRequest, view: View) -> PromotionConfig:
        """Raises NotFound and Invalid naming the field, Conflict for an eval that is not done."""
        candidate = await self._named(request.candidate)
        canary = await self._canary(request.canary, candidate.id)
        active = await self._activations.active()
        run = None
        if request.baseline.startswith(f"{self._evaluations.type}_") and not await self._models.find(request.baseline):
            run = await self._evals.done(request.baseline, "baseline", view)
            _check_guards(request)
            baseline = Named(id=run.model_id, digest=run.model_digest)
        else:
            baseline = await self._named(request.baseline)
        if candidate.id == baseline.id and run is None:
            raise Invalid(f"candidate: {candidate.id} is the baseline: name another one")
        sets, metrics = await asyncio.to_thread(sets_of, request, self._evaluations, self._datasets_dir)
        if run is not None:
            sets = [_from_run(number, one, run) for number, one in enumerate(sets)]
        elif LATENCY not in request.guards:
            sets = [await self._with_sources(one, baseline.digest, view) for one in sets]
        return PromotionConfig(
            candidate=candidate,
            baseline=baseline,
            baseline_run=run.job_id if run else None,
            active=active.digest if active else None,
            sets=sets,
            metrics=metrics,
            rule=request.rule,
            guards=request.guards,
            sequential=request.sequential,
            seed=request.seed,
            on_pass=request.on_pass,
            canary=canary,
        )

    async def check(self, request: PromotionRequest) -> None:
        """Whether its suite, and a baseline that it names, are there, for any candidate. Raises as config_of."""
        await asyncio.to_thread(sets_of, request, self._evaluations, self._datasets_dir)
        await self._canary(request.canary, None)
        if request.baseline == ACTIVE_ALIAS:
            return
        if request.baseline.startswith(f"{self._evaluations.type}_") and not await self._models.find(request.baseline):
            await self._evals.done(request.baseline, "baseline", EVERYTHING)
            _check_guards(request)
        else:
            await self._named(request.baseline)

    async def _canary(self, asked: CanaryRequest | None, candidate: str | None) -> CanaryRequest | None:
        """With its judge's id in the place of another name. Raises NotFound and Invalid."""
        judge = None if asked is None else asked.judge
        if asked is None or judge is None:
            return asked
        try:
            found = await self._named(judge.model)
        except NotFound as error:
            raise NotFound(f"canary.judge.model: {error}") from error
        if found.id == candidate:
            raise Invalid(f"canary.judge.model: {found.id} is the candidate, and cannot judge itself: name another one")
        return asked.model_copy(update={"judge": judge.model_copy(update={"model": found.id})})

    async def _named(self, name: str) -> Named:
        model = await self._models.get(await self._registry.resolve(name))
        return Named(id=model.id, digest=model.digest)

    async def _with_sources(self, one: StoredSet, digest: str, view: View) -> StoredSet:
        """Evals and promotions that asked the same weights the same questions in the same way, the newest first."""
        wanted = _alike(one.config)
        sources: list[str] = []
        for job in await self._done(view):
            if job.type == self._evaluations.type:
                if job.model_digest == digest and _alike_or_none(job.config) == wanted:
                    sources.append(f"{job.type}/{job.id}/{SAMPLES_FILE}")
            else:
                sources += _of_promotion(job, digest, wanted)
        return one.model_copy(update={"sources": sources[:_MOST_SOURCES]})

    async def _done(self, view: View) -> Sequence[JobRow]:
        kinds = (self._evaluations.type, PromotionKind.type)
        statement = (
            select(JobRow)
            .where(JobRow.type.in_(kinds), JobRow.status == "done", view.rows(JobRow.created_by))
            .order_by(JobRow.created_at.desc(), JobRow.id.desc())
            .limit(_LOOKED_THROUGH)
        )
        async with self._database.transaction() as session:
            return (await session.scalars(statement)).all()


def _check_guards(request: PromotionRequest) -> None:
    """Of one whose baseline is an eval. Raises Invalid."""
    if LATENCY in request.guards:
        raise Invalid(
            f"guards.{LATENCY}: {request.baseline} was answered at another time, so its seconds say nothing: name its"
            " model as the baseline"
        )


def _alike(config: EvalConfig) -> dict[str, object]:
    """Equal where the same model answers the same questions in the same way."""
    return {
        "dataset": config.dataset.digest,
        "template": config.asked.template_digest if config.asked else config.system_prompt,
        "sampling": config.sampling.model_dump(mode="json"),
        "judge": config.judge and config.judge.model_dump(mode="json"),
    }


def _alike_or_none(config: object) -> dict[str, object] | None:
    try:
        return _alike(EvalConfig.model_validate(config))
    except ValidationError:  # an older version's, or written by hand
        return None


def _of_promotion(job: JobRow, digest: str, wanted: dict[str, object]) -> list[str]:
    try:
        config = PromotionConfig.model_validate(job.config)
        alike = [number for number, one in enumerate(config.sets) if _alike(one.config) == wanted]
    except ValidationError:
        return []
    files: list[str] = []
    if config.baseline.digest == digest:
        files += [BASELINE_FILE, REUSED_FILE]
    if config.candidate.digest == digest:
        files.append(CANDIDATE_FILE)
    return [f"{job.type}/{job.id}/{number}/{file}" for number in alike for file in files]


def _from_run(number: int, one: StoredSet, run: DoneEval) -> StoredSet:
    """Raises Invalid where the run asked something else, Conflict where it kept no samples."""
    theirs, ours = _alike_or_none(run.config), _alike(one.config)
    if theirs != ours:
        names = [name for name, value in ours.items() if theirs is None or theirs[name] != value]
        raise Invalid(f"baseline: {run.job_id} differs from set {number} of the suite in its {', '.join(names)}")
    if not (run.run_dir / SAMPLES_FILE).exists():
        raise Conflict(f"baseline: {run.job_id} kept no samples (per_example_logging was false, or they were deleted)")
    return one.model_copy(update={"sources": [f"eval/{run.job_id}/{SAMPLES_FILE}"]})
