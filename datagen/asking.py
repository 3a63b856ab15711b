"""Strategies ask in words: one attempt's way to the engine, and what the attempt cost."""

from collections.abc import Sequence

from stepserve.contract import BatchItem, BatchOutput
from stepserve.jobs.batch_scheduler import BatchScheduler

Scheduler = BatchScheduler[BatchItem, BatchOutput]


class Asking:
    """Counts what one attempt cost. `student`: the way to the model that is to learn, if that is another one."""

    def __init__(self, scheduler: Scheduler, student: Scheduler | None = None) -> None:
        self._scheduler = scheduler
        self._student = student or scheduler
        self.items = 0
        self.errors = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0

    async def __call__(self, items: Sequence[BatchItem]) -> list[BatchOutput]:
        """The answers, in order; a failing item fails alone. Raises as BatchScheduler.ask does."""
        return await self._ask(self._scheduler, items)

    async def student(self, items: Sequence[BatchItem]) -> list[BatchOutput]:
        """The same of the model that is to learn."""
        return await self._ask(self._student, items)

    async def _ask(self, scheduler: Scheduler, items: Sequence[BatchItem]) -> list[BatchOutput]:
        outputs = await scheduler.ask(items)
        self.items += len(outputs)
        for output in outputs:
            self.errors += output.error is not None
            self.prompt_tokens += output.prompt_tokens
            self.completion_tokens += output.completion_tokens
        return outputs
