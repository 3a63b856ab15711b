"""Strategies ask in words: one attempt's way to the engine, and what the attempt cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stepserve.contract import BatchItem, BatchOutput
from stepserve.jobs.batch_scheduler import BatchScheduler

Scheduler = BatchScheduler[BatchItem, BatchOutput]


@dataclass(frozen=True, slots=True)
class Ways:
    """To the models of a run: its own; the one that is to learn, if that is another one; and others by their ids."""

    own: Scheduler
    student: Scheduler | None = None
    others: Mapping[str, Scheduler] = field(default_factory=dict)


class Asking:
    """Counts what one attempt cost. `waiting`: how many of its questions are out now."""

    def __init__(self, ways: Ways) -> None:
        self._ways = ways
        self.waiting = 0
        self.items = 0
        self.errors = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0

    async def __call__(self, items: Sequence[BatchItem]) -> list[BatchOutput]:
        """The answers, in order; a failing item fails alone. Raises as BatchScheduler.ask does."""
        return await self._ask(self._ways.own, items)

    async def student(self, items: Sequence[BatchItem]) -> list[BatchOutput]:
        """The same of the model that is to learn."""
        return await self._ask(self._ways.student or self._ways.own, items)

    async def model(self, model_id: str, items: Sequence[BatchItem]) -> list[BatchOutput]:
        """The same of another model, which a verifier named in its `models`."""
        return await self._ask(self._ways.others[model_id], items)

    async def _ask(self, scheduler: Scheduler, items: Sequence[BatchItem]) -> list[BatchOutput]:
        self.waiting += 1
        try:
            outputs = await scheduler.ask(items)
        finally:
            self.waiting -= 1
        self.items += len(outputs)
        for output in outputs:
            self.errors += output.error is not None
            self.prompt_tokens += output.prompt_tokens
            self.completion_tokens += output.completion_tokens
        return outputs
