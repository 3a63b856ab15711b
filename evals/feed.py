"""Keeps the engine fed: chunks of samples, many in flight, and a new one out as soon as one is back."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from control.errors import JobError, WrongWeights
from control.ports import BatchEngine
from evals.sample import Sample
from stepserve.contract import MAX_BATCH_ITEMS, BatchItem, BatchOutput, BatchRequest, BatchSampling, ModelRef

Answered = list[tuple[Sample, BatchOutput]]


@dataclass(frozen=True, slots=True)
class Feed:
    """How samples are asked: at most `chunk_items` in a request, at most `window_items` asked and not yet answered."""

    engine: BatchEngine
    model: ModelRef
    sampling: BatchSampling
    ask: Callable[[Sample], BatchItem]
    chunk_items: int
    window_items: int

    async def answers(self, samples: Iterable[Sample]) -> AsyncGenerator[Answered]:
        """Yields each chunk when it is complete, in no fixed order; reads `samples` only as far as they are asked.

        An error of a chunk is raised after what was complete beside it; the chunks still in flight are cancelled then,
        as they are when the generator is closed, which is its caller's duty. Raises what the engine raises,
        WrongWeights for an answer from another digest, JobError for one of another length, and what `samples` raises.
        """
        source = iter(samples)
        in_flight: dict[asyncio.Task[Answered], int] = {}
        try:
            self._refill(in_flight, source)
            while in_flight:
                await asyncio.wait(in_flight, return_when=asyncio.FIRST_COMPLETED)
                finished = [task for task in in_flight if task.done()]
                for task in finished:
                    del in_flight[task]
                failed = [task for task in finished if task.cancelled() or task.exception()]
                if not failed:
                    self._refill(in_flight, source)
                for task in finished:
                    if task not in failed:
                        yield task.result()
                if failed:
                    failed[0].result()
        finally:
            for task in in_flight:
                task.cancel()
            await asyncio.gather(*in_flight, return_exceptions=True)

    def _refill(self, in_flight: dict[asyncio.Task[Answered], int], source: Iterator[Sample]) -> None:
        free = self.window_items - sum(in_flight.values())
        while chunk := list(islice(source, min(self.chunk_items, free, MAX_BATCH_ITEMS))):
            in_flight[asyncio.create_task(self._ask(chunk))] = len(chunk)
            free -= len(chunk)

    async def _ask(self, chunk: list[Sample]) -> Answered:
        result = await self.engine.generate(
            BatchRequest(
                model=self.model.id,
                digest=self.model.digest,
                sampling=self.sampling,
                items=[self.ask(sample) for sample in chunk],
            )
        )
        if result.digest != self.model.digest:
            raise WrongWeights(f"{self.model.id}: asked {self.model.digest}, answered by {result.digest}")
        if len(result.outputs) != len(chunk):
            raise JobError(f"the engine answered {len(result.outputs)} of {len(chunk)} items")
        return list(zip(chunk, result.outputs, strict=True))
