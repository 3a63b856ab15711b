"""Evaluations as control sees them."""

import builtins
import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar

from evals.datasets import DatasetFacts, open_dataset, read_samples, resolve_dataset, scan_dataset
from evals.errors import DatasetBroken, DatasetMissing, EvalError
from evals.fewshot import POOL_SAMPLES
from evals.harness.kind import TaskFileKind
from evals.harness.stored_task import TASK
from evals.judge import AllowedJudges
from evals.request import MAX_ANSWERS, Asked, EvalConfig, EvalJobRequest, Misfit
from evals.run import EvalRun
from stepserve.jobs.errors import BadJob, Invalid, NotFound
from stepserve.jobs.ports import JobContext, JobRequest


class EvalKind:
    """`POST /eval/jobs`: asks a model every question of a dataset and measures the answers."""

    type: ClassVar[str] = "eval"
    route: ClassVar[str] = "/eval"
    request_model: ClassVar[builtins.type[JobRequest]] = EvalJobRequest

    def __init__(
        self,
        judges: AllowedJudges | None = None,
        max_answers: int = MAX_ANSWERS,
        tasks: TaskFileKind | None = None,
    ) -> None:
        """`max_answers`: to one question, of those that an engine works on at once. `tasks`: who runs task files."""
        self._judges = judges or AllowedJudges()
        self._max_answers = max_answers
        self._tasks = tasks

    def check(self, request: JobRequest, datasets_dir: Path) -> dict[str, Any]:
        """The config of a job that can run: every sample was read once. Blocks; raises Invalid or NotFound."""
        assert isinstance(request, EvalJobRequest)
        request.check()
        if request.n > self._max_answers:
            raise Invalid(
                f"n: {request.n} answers a question; at most {self._max_answers} are made at once (setting"
                " limits.max_sequences_per_request, or engine.max_num_seqs)"
            )
        if request.judge is not None and request.judge.url is not None:
            self._judges.url_of(request.judge)
        facts = _scanned(request, "dataset_ref", request.dataset_ref, request.max_samples, datasets_dir)
        examples = None
        if request.fewshot_dataset_ref is not None:
            ref = request.fewshot_dataset_ref
            examples = _scanned(request, "fewshot_dataset_ref", ref, POOL_SAMPLES, datasets_dir)
        pool = examples or facts
        if pool.samples < request.num_fewshot + (examples is None):
            raise Invalid(f"num_fewshot: {request.num_fewshot} examples are more than {pool.name} has to spare")
        asked = _asked(request, facts, datasets_dir, examples)
        return EvalConfig(**request.model_dump(), dataset=facts, asked=asked).stored()

    def identity(self, config: dict[str, Any]) -> dict[str, Any]:
        """Dataset content, prompts, sampling and what may fail; not the names that were given to them."""
        settings = EvalConfig.model_validate(config)
        return {
            "dataset": settings.dataset.digest,
            "samples": settings.dataset.samples,
            "template": settings.asked.template_digest if settings.asked else settings.system_prompt,
            "sampling": settings.sampling.model_dump(mode="json"),
            "metrics": sorted(set(settings.metrics)),
            "judge": settings.judge and settings.judge.model_dump(mode="json"),
            "per_example_logging": settings.per_example_logging,
            **({"cluster_by": settings.cluster_by} if settings.cluster_by is not None else {}),
            "max_error_share": settings.max_error_share,
        }

    async def run(self, context: JobContext) -> dict[str, Any]:
        """Writes config.json, samples.jsonl and metrics.json; the result is what metrics.json holds."""
        if TASK in context.config:
            if self._tasks is None:
                raise BadJob("task files are not run by this server")
            return await self._tasks.run(context)
        try:
            return await EvalRun(context, self._judges).run()
        except EvalError as error:
            raise BadJob(str(error)) from error


def _scanned(request: EvalJobRequest, field: str, ref: str, max_samples: int, datasets_dir: Path) -> DatasetFacts:
    try:
        path = resolve_dataset(ref, datasets_dir)
        return scan_dataset(path, datasets_dir, max_samples, request.field_map, request.check_sample, request.answer_is)
    except DatasetMissing as error:
        raise NotFound(f"{field}: {error}") from error
    except DatasetBroken as error:
        misfit = error.__cause__
        named = misfit.field if isinstance(misfit, Misfit) else field
        raise Invalid(f"{named}: {error}") from error
    except EvalError as error:
        raise Invalid(f"{field}: {error}") from error


def _asked(request: EvalJobRequest, facts: DatasetFacts, datasets_dir: Path, examples: DatasetFacts | None) -> Asked:
    """Of the first sample, which stands for all: they have one format."""
    with open_dataset(datasets_dir.resolve() / facts.name) as stream:
        sample = next(read_samples(stream, facts.name, 1, request.field_map, answer_is=request.answer_is))
    prompter = request.prompter
    stop = list(prompter.stop(sample))
    choices = prompter.continues_with(sample) if sample.choices else None
    said = request.model_dump(
        mode="json",
        include={
            "system_prompt", "template", "apply_chat_template", "num_fewshot", "fewshot_seed", "field_map",
        },
    )  # fmt: skip
    said |= {"style": prompter.style(sample), "stop": stop, "choices": choices, "format": facts.format}
    if request.answer_is is not None:  # what is not said has no part in digests of old
        said["answer_is"] = request.answer_is
    said["examples"] = (examples or facts).digest if request.num_fewshot else None
    digest = hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return Asked(
        style=said["style"],
        stop=stop,
        choices=choices,
        template_digest=f"sha256:{digest}",
        fewshot_dataset=examples,
    )
