"""The questions of an evaluation: opened as they were when its job was made, asked of a model, and scored."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from functools import partial
from io import BufferedReader
from types import TracebackType
from typing import Any, Self

from evals.datasets import DatasetFacts, digest_of, open_dataset, read_samples, resolve_dataset
from evals.fewshot import draw_shots
from evals.judge import AllowedJudges, Judge, judge_by_id, judge_by_url
from evals.prompts import Prompter
from evals.record import SampleRecord, record_of
from evals.request import EvalConfig
from evals.sample import Sample
from evals.scoring import Scoring
from stepserve.contract import BatchOutput, ModelRef
from stepserve.jobs.batch_scheduler import BatchScheduler, generating
from stepserve.jobs.errors import BadJob, Invalid
from stepserve.jobs.ports import JobContext


class Questions:
    """A context that holds the dataset and what its metrics need; of `context` it uses the engine and its limits.

    Entering raises BadJob for a dataset that changed, EvalError for one that cannot be read.
    """

    def __init__(self, config: EvalConfig, context: JobContext, judges: AllowedJudges) -> None:
        self._config = config
        self._context = context
        self._judges = judges
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._dataset = await _or_closed(asyncio.to_thread(self._opened, self._config.dataset))
            stack.callback(self._dataset.close)
            self._prompter = await asyncio.to_thread(self._with_shots)
            self.scoring = await stack.enter_async_context(Scoring(self._config.metrics, self._judge()))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def samples(self) -> Iterator[Sample]:
        """Those that the job is about, in the file's order, read as they are taken. Raises EvalError."""
        config = self._config
        return read_samples(
            self._dataset, config.dataset.name, config.max_samples, config.field_map, answer_is=config.answer_is
        )

    async def answers(self, samples: Iterable[Sample], model: ModelRef) -> AsyncGenerator[list[SampleRecord]]:
        """Scored, in no fixed order; many are asked at once. Raises what the engine raises, WrongWeights."""
        config = self._config
        async with aclosing(self._scheduler(model).stream(samples)) as answers:
            async for chunk in answers:
                asked = [record_of(sample, output, model.digest, config.cluster_by) for sample, output in chunk]
                yield await self.scoring.score(asked)

    def _scheduler(self, model: ModelRef) -> BatchScheduler[Sample, BatchOutput]:
        config, context = self._config, self._context
        generate = generating(context.engine, model, config.sampling)
        item_of = partial(self._prompter.item, generate=config.generates, continue_with_choices=config.scores_choices)
        return BatchScheduler(
            lambda samples: generate([item_of(sample) for sample in samples]),
            chunk_items=context.batch_items,
            window_items=partial(context.window_items, model),
        )

    def _judge(self) -> Judge | None:
        spec = self._config.judge
        if spec is None:
            return None
        if spec.url is None:
            return judge_by_id(spec, self._context.engine)
        try:
            return judge_by_url(spec, self._judges)
        except Invalid as error:  # settings changed since the job was made
            raise BadJob(str(error)) from error

    def _opened(self, facts: DatasetFacts) -> BufferedReader:
        """The dataset, as it was when the job was made. Raises BadJob, EvalError."""
        stream = open_dataset(resolve_dataset(facts.name, self._context.datasets_dir))
        try:
            found = digest_of(stream)
            if found != facts.digest:
                raise BadJob(f"{facts.name} changed since the job was made: {facts.digest} then, {found} now")
        except BaseException:
            stream.close()
            raise
        return stream

    def _with_shots(self) -> Prompter:
        config, dataset = self._config, self._dataset
        examples = config.asked.fewshot_dataset if config.asked else None
        pool, facts = (dataset, config.dataset) if examples is None else (self._opened(examples), examples)
        try:
            shots = draw_shots(
                pool, facts.name, config.num_fewshot, config.fewshot_seed, config.field_map, config.answer_is
            )
        finally:
            if pool is not dataset:
                pool.close()
        return replace(config.prompter, shots=shots)


async def _or_closed(opening: Coroutine[Any, Any, BufferedReader]) -> BufferedReader:
    """The file that a thread opens; cancelled meanwhile, it is closed as soon as it is open."""
    task = asyncio.ensure_future(opening)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_close)
        raise


def _close(opened: asyncio.Future[BufferedReader]) -> None:
    if not opened.cancelled() and opened.exception() is None:
        opened.result().close()
