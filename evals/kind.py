"""Evaluations as control sees them."""

import builtins
from pathlib import Path
from typing import Any, ClassVar

from control.errors import BadJob, Invalid, NotFound
from control.ports import JobContext, JobRequest
from evals.datasets import resolve_dataset, scan_dataset
from evals.errors import DatasetMissing, EvalError
from evals.request import EvalConfig, EvalJobRequest
from evals.run import EvalRun


class EvalKind:
    """`POST /eval/jobs`: asks a model every question of a dataset and measures the answers."""

    type: ClassVar[str] = "eval"
    route: ClassVar[str] = "/eval"
    request_model: ClassVar[builtins.type[JobRequest]] = EvalJobRequest

    def check(self, request: JobRequest, datasets_dir: Path) -> dict[str, Any]:
        """The config of a job that can run: every sample was read once. Blocks; raises Invalid or NotFound."""
        assert isinstance(request, EvalJobRequest)
        request.check_metrics()
        try:
            path = resolve_dataset(request.dataset_ref, datasets_dir)
            facts = scan_dataset(path, datasets_dir, request.max_samples)
        except DatasetMissing as error:
            raise NotFound(f"dataset_ref: {error}") from error
        except EvalError as error:
            raise Invalid(f"dataset_ref: {error}") from error
        request.check_fits(facts)
        return EvalConfig(**request.model_dump(), dataset=facts).stored()

    def identity(self, config: dict[str, Any]) -> dict[str, Any]:
        """Dataset content, prompts and sampling; not the names that were given to them."""
        settings = EvalConfig.model_validate(config)
        return {
            "dataset": settings.dataset.digest,
            "samples": settings.dataset.samples,
            "system_prompt": settings.system_prompt,
            "sampling": settings.sampling.model_dump(mode="json"),
            "metrics": sorted(set(settings.metrics)),
            "per_example_logging": settings.per_example_logging,
        }

    async def run(self, context: JobContext) -> dict[str, Any]:
        """Writes config.json, samples.jsonl and metrics.json; the result is what metrics.json holds."""
        try:
            return await EvalRun(context).run()
        except EvalError as error:
            raise BadJob(str(error)) from error
