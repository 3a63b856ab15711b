"""The first rows of a pipeline before a job is made of it: implements stepserve.jobs.datagen_ports.PipelinePreviews."""

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, Final

from datagen.asking import Asking, Scheduler, Ways
from datagen.attempting import Attempting
from datagen.config import GenerationConfig
from datagen.errors import DataGenError
from datagen.filters import Filters
from datagen.kind import DataGenKind
from datagen.records import Draft
from datagen.rejections import why
from datagen.request import DataGenRequest, StoredConfig
from datagen.strategies.pipeline import Pipeline
from datagen.verification import Verification
from stepserve.contract import MAX_BATCH_ITEMS, ModelRef
from stepserve.jobs.batch_scheduler import BatchScheduler, generating
from stepserve.jobs.datagen_ports import PreviewModels
from stepserve.jobs.errors import Invalid
from stepserve.jobs.ports import BatchEngine
from stepserve.paths import Layout

_STRATEGY: Final = "pipeline"


class Previews:
    def __init__(self, layout: Layout) -> None:
        self._kind = DataGenKind(layout)
        self._datasets_dir = layout.datasets

    def open(self, config: dict[str, Any]) -> "Preview":
        """Checked as a job would be. Blocks; raises Invalid naming the field."""
        asked = DataGenRequest(model_id="", strategy=_STRATEGY, config=config)
        stored = StoredConfig.model_validate(self._kind.check(asked, self._datasets_dir))
        sources = replace(self._kind.sources, new=False)
        try:
            parsed = stored.parsed()
            pipeline = stored.open_strategy(sources)
            assert isinstance(pipeline, Pipeline)
            return Preview(parsed, pipeline, Verification.open(parsed, sources))
        except DataGenError as error:
            raise Invalid(str(error)) from error


@dataclass(frozen=True, slots=True)
class Preview:
    """Implements stepserve.jobs.datagen_ports.OpenedPreview."""

    config: GenerationConfig
    pipeline: Pipeline
    verification: Verification

    @property
    def models(self) -> Mapping[str, str]:
        return {**self.verification.models, **self.pipeline.asked_models}

    async def rows(self, count: int, engine: BatchEngine, models: PreviewModels) -> dict[str, Any]:
        """Side by side. `items`: of a row that is split, the columns of each; `examples` is empty where all would be
        dropped; `rejected` says why.
        """
        count = min(count, self.config.attempts_at_most(self.pipeline.attempts))
        filters = Filters(self.config.filters, self.config.lengths)
        attempting = Attempting(self.pipeline, filters, self.verification)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.pipeline)
            await stack.enter_async_context(self.verification)

            async def way(model: ModelRef) -> Scheduler:
                scheduler = BatchScheduler(
                    generating(engine, model), chunk_items=MAX_BATCH_ITEMS, window_items=MAX_BATCH_ITEMS
                )
                return await stack.enter_async_context(scheduler)

            others = {model_id: await way(model) for model_id, model in models.others.items()}
            ways = Ways(own=await way(models.own), others=others)
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self._row(number, attempting, Asking(ways))) for number in range(count)]
            except ExceptionGroup as errors:
                first = errors.exceptions[0]
                raise (Invalid(str(first)) if isinstance(first, DataGenError) else first) from errors
        return {
            "model": models.own.id,
            "digest": models.own.digest,
            "seed": self.config.seed,
            "order": self.pipeline.order,
            "rows": [task.result() for task in tasks],
        }

    async def _row(self, number: int, attempting: Attempting, ask: Asking) -> dict[str, Any]:
        walks, outcome = await self.pipeline.walked(number, ask)
        finished = await attempting.checked(outcome, number, ask)
        of_items = self.pipeline.of_items
        return {
            "attempt": number,
            "columns": {name: value for name, value in walks[0].values.items() if name not in of_items},
            "items": [
                {name: value for name, value in walk.values.items() if name in of_items}
                for walk in walks
                if walk.item is not None
            ],
            "examples": [_shown(draft) for draft in finished.drafts],
            "rejected": [
                {"reason": one.reason, "why": why(one.reason, one.detail), "detail": dict(one.detail)}
                for one in finished.rejected
            ],
            "prompt_tokens": ask.prompt_tokens,
            "completion_tokens": ask.completion_tokens,
        }


def _shown(draft: Draft) -> dict[str, Any]:
    return {
        "messages": [{"role": turn.role, "content": turn.content} for turn in draft.turns],
        "verify_method": draft.verify_method,
        "verify_score": draft.verify_score,
    }
