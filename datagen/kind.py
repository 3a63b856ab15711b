"""Data generation as control sees it."""

import builtins
from pathlib import Path
from typing import Any, ClassVar

from datagen.errors import DataGenError, Refused
from datagen.filters import Filters
from datagen.parquet import is_available
from datagen.places import check_target
from datagen.rendering import LIMIT_S
from datagen.request import DataGenRequest, StoredConfig
from datagen.run import DataGenRun
from datagen.strategy import Sources
from datagen.verification import Verification
from evals.datasets import resolve_dataset
from evals.errors import EvalError
from stepserve.jobs.errors import BadJob, Invalid
from stepserve.jobs.ports import JobContext, JobRequest
from stepserve.paths import Layout


class DataGenKind:
    """`POST /data_gen/jobs`: makes training examples with a model and leaves them as shards."""

    type: ClassVar[str] = "data_gen"
    route: ClassVar[str] = "/data_gen"
    request_model: ClassVar[builtins.type[JobRequest]] = DataGenRequest

    def __init__(self, layout: Layout, render_limit_s: float = LIMIT_S) -> None:
        self.sources = Sources(
            base_dir=layout.base,
            datasets_dir=layout.datasets,
            runs_dir=layout.runs,
            models_dir=layout.models,
            render_limit_s=render_limit_s,
        )

    def check(self, request: JobRequest, datasets_dir: Path) -> dict[str, Any]:
        """The config of a job that can run: the strategy was opened once, everything it reads was read. Blocks."""
        assert isinstance(request, DataGenRequest)
        asked = StoredConfig(strategy=request.strategy, name=request.name, config=request.config)
        try:
            config = asked.parsed()
            check_target(self.sources.base_dir, self.sources.models_dir, config.output_dir)
            Filters(config.filters, config.lengths)
            if config.parquet and not is_available():
                raise Refused("parquet", "needs pyarrow, which is not installed")
            for name in config.decontaminate_except:
                _check_dataset("decontaminate_except", name, datasets_dir)
            for name in config.quality.known_sets or []:
                _check_dataset("quality.known_sets", name, datasets_dir)
            Verification.open(config, self.sources)
            strategy = asked.open_strategy(self.sources)
        except DataGenError as error:
            raise Invalid(str(error)) from error
        return {
            "strategy": request.strategy,
            "name": request.name,
            "config": config.model_dump(mode="json"),
            "source_digest": strategy.digest,
        }

    def identity(self, config: dict[str, Any]) -> dict[str, Any] | None:
        """No two are the same: a second one adds to what the first one made."""
        return None

    async def run(self, context: JobContext) -> dict[str, Any]:
        try:
            return await DataGenRun(context, self.sources).run()
        except (DataGenError, EvalError) as error:
            raise BadJob(str(error)) from error


def _check_dataset(field: str, name: str, datasets_dir: Path) -> None:
    try:
        resolve_dataset(name, datasets_dir)
    except EvalError as error:
        raise Refused(field, str(error)) from error
