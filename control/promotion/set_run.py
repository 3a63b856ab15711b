"""One set of questions in one attempt at a promotion: both models' answers, as far as they are needed."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Final, Protocol

from control.promotion.files import BASELINE_FILE, CANDIDATE_FILE, ORDER_FILE, REUSED_FILE, read_order
from control.promotion.pairs import Answer, Pairs, answer_of, order_of
from evals.error_share import ErrorShare, failure_of
from evals.metrics import decisive, known_metric
from evals.questions import Questions
from evals.record import SampleRecord
from evals.request import EvalConfig
from evals.run_files import write_json
from evals.sample import Sample
from evals.samples_log import open_samples, read_records
from stepserve.contract import ModelRef
from stepserve.jobs.errors import BadJob, ModelNotServed, WrongWeights
from stepserve.jobs.jsonl_log import JsonlLog

log = logging.getLogger(__name__)

FIRST_UNITS: Final = 32
"""How many units are asked at first; later half as many again as are there, so that less than half is asked in vain."""


class Loader(Protocol):
    async def load_beside(self, model_id: str) -> None:
        """Raises NoRoom, or another ServiceError when it does not load."""
        ...


class Side:
    """One model's answers to one set, in a log that a later attempt takes up."""

    def __init__(self, file: Path, model: ModelRef, config: EvalConfig, answers: dict[str, Answer], asked: int) -> None:
        self.model = model
        self._log = open_samples(file)
        self._metrics = config.metrics
        self._answers = answers
        main = decisive(config.metrics)
        kept = list(self._log.recover())
        if any(record.model_digest != model.digest for record in kept):
            raise WrongWeights(f"{file} was begun with another digest of {model.id} than {model.digest}")
        errors = ErrorShare(main, asked, config.max_error_share)
        for record in kept:
            errors.add(record)
        if errors.exceeded() is not None:  # an earlier attempt gave up: what failed is asked again
            self._log.keep_only(lambda record: failure_of(record, main) is None)
            kept = [record for record in kept if failure_of(record, main) is None]
        self._errors = ErrorShare(main, asked, config.max_error_share)
        self._take(kept)

    def add(self, records: Sequence[SampleRecord]) -> None:
        """Raises BadJob when too many of them are errors, or a score cannot decide."""
        self._log.append(records)
        self._take(records)
        if (reason := self._errors.exceeded()) is not None:
            raise BadJob(f"{self.model.id}: {reason}")

    def close(self) -> None:
        try:
            self._log.sync()
        finally:
            self._log.close()

    def _take(self, records: Iterable[SampleRecord]) -> None:
        for record in records:
            self._errors.add(record)
            try:
                self._answers[record.id] = answer_of(record, self._metrics, timed=True)
            except ValueError as error:
                raise BadJob(f"{self.model.id}: {error}") from error


class SetRun:
    """`pairs` has what both models answered. The baseline is not asked what an earlier run has its answer to."""

    def __init__(
        self,
        config: EvalConfig,
        questions: Questions,
        samples: Mapping[str, Sample],
        pairs: Pairs,
        sides: tuple[Side, Side],
        reuse: "Reuse",
        loader: Loader,
    ) -> None:
        self._config = config
        self._questions = questions
        self._samples = samples
        self.pairs = pairs
        self._baseline, self._candidate = sides
        self._reuse = reuse
        self._loader = loader

    @property
    def planned(self) -> int:
        return sum(map(len, self.pairs.order))

    @property
    def done(self) -> int:
        """Questions with both answers, about."""
        return min(len(self.pairs.baseline), len(self.pairs.candidate))

    @property
    def is_complete(self) -> bool:
        return self.pairs.complete == len(self.pairs.order)

    async def ask_more(self, units: int, after_each: Callable[[], Awaitable[None]]) -> None:
        """Until the first `units` units are complete. Raises what evals and the engine raise."""
        wanted = [name for unit in self.pairs.order[:units] for name in unit]
        await asyncio.to_thread(self._reuse.take, [name for name in wanted if name not in self.pairs.baseline])
        try:
            async with asyncio.TaskGroup() as group:
                missing = [name for name in wanted if name not in self.pairs.candidate]
                group.create_task(self._ask(self._candidate, missing, after_each))
                group.create_task(self._ask_baseline(wanted, after_each))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures

    async def _ask_baseline(self, wanted: Sequence[str], after_each: Callable[[], Awaitable[None]]) -> None:
        """It may have to be loaded beside the candidate, or again."""

        def missing() -> list[str]:
            return [name for name in wanted if name not in self.pairs.baseline]

        try:
            await self._ask(self._baseline, missing(), after_each)
        except ModelNotServed:
            await self._loader.load_beside(self._baseline.model.id)
            await self._ask(self._baseline, missing(), after_each)

    async def _ask(self, side: Side, names: Sequence[str], after_each: Callable[[], Awaitable[None]]) -> None:
        if not names:
            return
        samples = (self._samples[name] for name in names)
        async with aclosing(self._questions.answers(samples, side.model)) as answers:
            async for records in answers:
                side.add(records)
                await after_each()


class Reuse:
    """The baseline's answers that earlier runs have: those whose question, target and weights are the same."""

    def __init__(
        self,
        log_: JsonlLog[SampleRecord],
        found: Mapping[str, SampleRecord],
        metrics: Sequence[str],
        answers: dict[str, Answer],
    ) -> None:
        self._log = log_
        self._found = found
        self._metrics = metrics
        self._answers = answers
        for record in log_.recover():
            answers[record.id] = answer_of(record, metrics, timed=False)

    @property
    def names(self) -> set[str]:
        return {*self._found, *self._answers}

    def take(self, names: Iterable[str]) -> None:
        """Copies them into the run's folder, so that the decision stands on its own. Blocks."""
        taken = [self._found[name] for name in names if name in self._found]
        self._log.append(taken)
        self._answers |= {record.id: answer_of(record, self._metrics, timed=False) for record in taken}


@asynccontextmanager
async def opened(
    config: EvalConfig,
    questions: Questions,
    folder: Path,
    *,
    models: tuple[ModelRef, ModelRef],
    sources: Sequence[Path],
    only_reused: bool,
    seed: int,
    loader: Loader,
) -> AsyncIterator[SetRun]:
    """`models`: baseline and candidate. `only_reused`: the baseline is not asked; what has no answer is left out.

    Raises BadJob, EvalError, WrongWeights, OSError.
    """
    baseline, candidate = models
    samples = {sample.id: sample for sample in await asyncio.to_thread(list, questions.samples())}
    async with AsyncExitStack() as stack:

        def prepare() -> SetRun:
            folder.mkdir(exist_ok=True)
            pairs = Pairs([])
            found = reusable(sources, baseline.digest, samples, config.metrics)
            reused = stack.enter_context(open_samples(folder / REUSED_FILE))
            stack.callback(reused.sync)
            reuse = Reuse(reused, found, config.metrics, pairs.baseline)
            pairs.order = _order(folder, config, samples, seed, reuse.names if only_reused else None)
            if not pairs.order:
                raise BadJob(f"{config.dataset.name}: the baseline has no answer to any of its questions")
            asked = sum(map(len, pairs.order))
            old = Side(folder / BASELINE_FILE, baseline, config, pairs.baseline, asked)
            stack.callback(old.close)
            new = Side(folder / CANDIDATE_FILE, candidate, config, pairs.candidate, asked)
            stack.callback(new.close)
            return SetRun(config, questions, samples, pairs, (old, new), reuse, loader)

        yield await asyncio.to_thread(prepare)


def reusable(
    sources: Sequence[Path], digest: str, samples: Mapping[str, Sample], metrics: Sequence[str]
) -> dict[str, SampleRecord]:
    """Blocks. A file that is gone or cannot be read is passed over."""
    found: dict[str, SampleRecord] = {}
    for path in sources:
        try:
            for record in read_records(path):
                sample = samples.get(record.id)
                if sample is None or record.id in found or record.model_digest != digest or record.error is not None:
                    continue
                if (record.input, record.target) != (sample.input, sample.target):
                    continue
                if all(name in record.scores and _has_verdict(record, name) for name in metrics):
                    found[record.id] = record
        except OSError as error:
            log.info("%s cannot be used again: %s", path, error)
    return found


def _has_verdict(record: SampleRecord, metric: str) -> bool:
    return failure_of(record, known_metric(metric)) is None


def _order(
    folder: Path, config: EvalConfig, samples: Mapping[str, Sample], seed: int, only: set[str] | None
) -> list[list[str]]:
    """Kept from the first attempt on. Blocks."""
    kept = read_order(folder)
    if kept is not None:
        return kept
    asked = ((name, sample.cluster(config.cluster_by)) for name, sample in samples.items())
    order = order_of([one for one in asked if only is None or one[0] in only], seed)
    write_json(folder / ORDER_FILE, {"units": order})
    return order
