"""Strategies ask in words: one attempt's way to the engine, and what the attempt cost."""

from collections.abc import Sequence

from stepserve.contract import BatchItem, BatchOutput
from stepserve.jobs.batch_scheduler import BatchScheduler


class Asking:
    """Counts what one attempt cost."""

    def __init__(self, scheduler: BatchScheduler[BatchItem, BatchOutput]) -> None:
        self._scheduler = scheduler
        self.items = 0
        self.errors = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0

    async def __call__(self, items: Sequence[BatchItem]) -> list[BatchOutput]:
        """The answers, in order; a failing item fails alone. Raises as BatchScheduler.ask does."""
        outputs = await self._scheduler.ask(items)
        self.items += len(outputs)
        for output in outputs:
            self.errors += output.error is not None
            self.prompt_tokens += output.prompt_tokens
            self.completion_tokens += output.completion_tokens
        return outputs
