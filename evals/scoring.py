"""Scores records by every metric asked for, each where it belongs: here, in another process, a sandbox, by a judge."""

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from evals.judge import Judge
from evals.metrics import Metric, decisive, scored
from evals.programs import code_of, program_of
from evals.record import MetricScore, SampleRecord
from evals.sample import LETTERS
from evals.sandbox import Sandbox
from evals.scorers import Score
from evals.scoring_workers import ScoringWorkers

_AT_ONCE = frozenset({"text", "choices"})  # places where a score is a computation of microseconds
_LARGE_CHARACTERS = 256 * 1024  # of answers and targets: a line of a dataset may have megabytes, which take seconds


class Scoring:
    """The metrics of one run, as a context that holds what they need; processes start when first needed."""

    def __init__(self, names: Sequence[str], judge: Judge | None = None) -> None:
        self.main = decisive(names)
        self.metrics = scored(names)
        self._workers = ScoringWorkers()
        self._sandbox = Sandbox()
        self._judge = judge
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._workers)
        if self._judge is not None:
            await self._stack.enter_async_context(self._judge)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def score(self, records: Sequence[SampleRecord]) -> list[SampleRecord]:
        """The same records with their scores, in order. Raises ScoringBroken."""
        if all(metric.place in _AT_ONCE for metric in self.metrics):  # a task for each would cost more than its score
            if _characters(records) > _LARGE_CHARACTERS:
                return await asyncio.to_thread(self._all_at_once, records)
            return self._all_at_once(records)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._one(record)) for record in records]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        return [task.result() for task in tasks]

    async def corpus(self, counts: dict[str, list[float]]) -> dict[str, float]:
        """The score of the whole dataset by metric, of its counts."""
        return {metric: await self._workers.corpus(metric, stats) for metric, stats in counts.items()}

    def _all_at_once(self, records: Sequence[SampleRecord]) -> list[SampleRecord]:
        return [self._scored(record, _at_once) for record in records]

    async def _one(self, record: SampleRecord) -> SampleRecord:
        if record.error is not None:
            return record
        scores = {metric.name: await self._by(metric, record) for metric in self.metrics if _applies(metric, record)}
        return self._scored(record, lambda metric, _: scores[metric.name])

    def _scored(self, record: SampleRecord, by: Callable[[Metric, SampleRecord], MetricScore]) -> SampleRecord:
        if record.error is not None:
            return record
        scores = {metric.name: by(metric, record) for metric in self.metrics if _applies(metric, record)}
        main = scores.get(self.main.name)
        if main is None:
            return record.model_copy(update={"scores": scores})
        found = {"extracted": main.extracted, "correct": bool(main.correct), "score": main.value}
        return record.model_copy(update={"scores": scores, **found})

    async def _by(self, metric: Metric, record: SampleRecord) -> MetricScore:
        if metric.place in _AT_ONCE:
            if _characters([record]) > _LARGE_CHARACTERS:
                return await asyncio.to_thread(_at_once, metric, record)
            return _at_once(metric, record)
        scores = await asyncio.gather(*(self._answer(metric, answer, record) for answer in record.answers))
        whole = combined(scores)
        if metric.k == 1:
            return whole
        right = sum(bool(score.correct) for score in scores)
        return whole.model_copy(update={"value": pass_at_k(len(scores), right, metric.k)})

    async def _run(self, answer: str, record: SampleRecord) -> MetricScore:
        assert record.code is not None
        end = await self._sandbox.run(program_of(answer, record.code))
        return MetricScore(
            value=float(end.passed),
            correct=end.passed,
            extracted=code_of(answer, record.code.entry_point),
            detail=None if end.passed else end.detail,
        )

    async def _answer(self, metric: Metric, answer: str, record: SampleRecord) -> MetricScore:
        if metric.place == "process":
            return await self._workers.score(metric.name, answer, record.accepted, record.form, record.choices)
        if metric.place == "program":
            return await self._run(answer, record)
        assert self._judge is not None
        return await self._judge.grade(record, answer)


def pass_at_k(answers: int, right: int, k: int) -> float:
    """The chance that of `k` answers drawn from these at least one is right: 1 - C(n - c, k) / C(n, k), the unbiased
    estimator of Chen et al. (2021).
    """
    return 1 - math.comb(answers - right, k) / math.comb(answers, k)


def combined(scores: Sequence[MetricScore]) -> MetricScore:
    """One score of the scores of a question's answers: the mean; correct where more than half are."""
    if len(scores) == 1:
        return scores[0]
    right = sum(bool(score.correct) for score in scores)
    stats = [score.stats for score in scores if score.stats is not None]
    return MetricScore(
        value=sum(score.value for score in scores) / len(scores),
        correct=None if scores[0].correct is None else 2 * right > len(scores),
        extracted=scores[0].extracted,
        parsed=any(score.parsed for score in scores),
        values=[score.value for score in scores],
        stats=[sum(column) for column in zip(*stats, strict=True)] if stats else None,
        detail=next((score.detail for score in scores if score.detail is not None), None),
        error=next((score.error for score in scores if score.error is not None), None),
    )


def _applies(metric: Metric, record: SampleRecord) -> bool:
    """The decisive metric may have been added to metrics that ask for a program."""
    return record.code is None or metric.place == "program"


def _characters(records: Sequence[SampleRecord]) -> int:
    return sum(len(text) for record in records for text in (*record.answers, *record.accepted, *record.choices))


def _at_once(metric: Metric, record: SampleRecord) -> MetricScore:
    if metric.place == "choices":
        return _by_loglikelihood(metric, record)
    assert metric.scorer is not None
    return combined([_of_text(metric.scorer(answer, record)) for answer in record.answers])


def _of_text(score: Score) -> MetricScore:
    return MetricScore(value=score.value, correct=score.correct, extracted=score.extracted, parsed=score.parsed)


def _by_loglikelihood(metric: Metric, record: SampleRecord) -> MetricScore:
    """The most likely choice; `acc_norm` divides by the choice's length in characters, as lm-eval does."""
    values: list[float] = []
    for choice, score in zip(record.choices, record.continuations, strict=False):
        if score.logprob is None:
            return MetricScore(value=0.0, correct=False, parsed=False, error="a choice does not fit in the context")
        values.append(score.logprob / len(choice) if metric.name == "acc_norm" else score.logprob)
    if len(values) != len(record.choices):
        return MetricScore(value=0.0, correct=False, parsed=False, error="no log-probabilities of the choices")
    letter = LETTERS[values.index(max(values))]
    return MetricScore(value=float(letter == record.target), correct=letter == record.target, extracted=letter)
