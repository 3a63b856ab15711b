"""One evaluation, from its config to its metrics; a second attempt goes on where the first one stopped."""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

from evals.error_share import ErrorShare, failure_of
from evals.judge import AllowedJudges
from evals.metrics import decisive, require
from evals.questions import Questions
from evals.record import SampleRecord
from evals.request import EvalConfig
from evals.run_files import CONFIG_FILE, METRICS_FILE, read_json, write_json
from evals.samples_log import SAMPLES_FILE, open_samples
from evals.tally import Tally
from stepserve.jobs.errors import BadJob, WrongWeights
from stepserve.jobs.jsonl_log import JsonlLog
from stepserve.jobs.ports import JobContext


class EvalRun:
    """One attempt. `metrics.json` is written last and whole: a run that has it is over, and answers with it."""

    def __init__(
        self,
        context: JobContext,
        judges: AllowedJudges | None = None,
        clock_s: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._context = context
        self._judges = judges or AllowedJudges()
        self._clock_s = clock_s
        self._config = EvalConfig.model_validate(context.config)
        require(self._config.metrics)  # one that was installed may have gone since the job was made
        self._tally = Tally(self._config.metrics, self._config.n)
        self._decisive = decisive(self._config.metrics)
        self._errors = self._no_errors_yet()
        self._answered: set[str] = set()

    async def run(self) -> dict[str, Any]:
        """Raises JobError, EvalError for a dataset that changed for the worse, and what the engine raises."""
        result = await asyncio.to_thread(self._earlier_result)
        if result is None:
            async with Questions(self._config, self._context, self._judges) as questions:
                with open_samples(self._path(SAMPLES_FILE)) as log:
                    await asyncio.to_thread(self._take_up, log)
                    await asyncio.to_thread(self._write_config)
                    result = await self._evaluate(questions, log)
            await asyncio.to_thread(write_json, self._path(METRICS_FILE), result)
        if not self._config.per_example_logging:
            self._path(SAMPLES_FILE).unlink(missing_ok=True)
        return result

    def _earlier_result(self) -> dict[str, Any] | None:
        self._context.run_dir.mkdir(parents=True, exist_ok=True)
        result = read_json(self._path(METRICS_FILE))
        if result is not None:
            self._check_weights(str(result.get("model_digest")))
        return result

    def _write_config(self) -> None:
        model = self._context.model
        write_json(
            self._path(CONFIG_FILE),
            {
                "job_id": self._context.job_id,
                "type": "eval",
                **self._config.stored(),
                "model": {"id": model.id, "path": model.path, "digest": model.digest},
                "sampling": self._config.sampling.model_dump(mode="json"),
            },
        )

    async def _evaluate(self, questions: Questions, log: JsonlLog[SampleRecord]) -> dict[str, Any]:
        config, facts, model = self._config, self._config.dataset, self._context.model
        resumed_samples, resumed_tokens = self._tally.total, self._tally.completion_tokens
        await self._context.report(self._tally.total, facts.samples)
        unanswered = (sample for sample in questions.samples() if sample.id not in self._answered)
        started_s = self._clock_s()
        async with aclosing(questions.answers(unanswered, model)) as answers:
            async for records in answers:
                log.append(records)
                for record in records:
                    self._add(record)
                self._check_errors()
                await self._context.report(self._tally.total, facts.samples)
        seconds = self._clock_s() - started_s
        await asyncio.to_thread(log.sync)
        self._check_errors()
        if self._tally.total != facts.samples:
            raise BadJob(f"{SAMPLES_FILE} has {self._tally.total} samples where the dataset has {facts.samples}")
        return {
            **self._tally.metrics(await questions.scoring.corpus(self._tally.corpus_counts)),
            "seconds": seconds,
            "samples_per_s": _rate(self._tally.total - resumed_samples, seconds),
            "tokens_per_s": _rate(self._tally.completion_tokens - resumed_tokens, seconds),
            "resumed_samples": resumed_samples,
            **(await self._context.used()).shown(),
            "dataset_digest": facts.digest,
            "model_digest": model.digest,
            "template_digest": config.asked.template_digest if config.asked else None,
            "seed": config.seed,
        }

    def _take_up(self, log: JsonlLog[SampleRecord]) -> None:
        """What failed is asked again where an earlier attempt ended because too much of it had failed."""
        if self._gave_up(log):
            log.keep_only(lambda record: failure_of(record, self._decisive) is None)
        for record in log.recover():
            self._check_weights(record.model_digest)
            if record.id not in self._answered:
                self._answered.add(record.id)
                self._add(record)

    def _gave_up(self, log: JsonlLog[SampleRecord]) -> bool:
        errors = self._no_errors_yet()
        for record in log.recover():
            errors.add(record)
        return errors.exceeded() is not None

    def _no_errors_yet(self) -> ErrorShare:
        return ErrorShare(self._decisive, self._config.dataset.samples, self._config.max_error_share)

    def _add(self, record: SampleRecord) -> None:
        self._tally.add(record)
        self._errors.add(record)

    def _check_errors(self) -> None:
        reason = self._errors.exceeded()
        if reason is not None:
            raise BadJob(reason)

    def _check_weights(self, earlier_digest: str) -> None:
        model = self._context.model
        if earlier_digest != model.digest:
            raise WrongWeights(
                f"{self._context.run_dir.name} was begun with {earlier_digest}; {model.id} is {model.digest} now"
            )

    def _path(self, name: str) -> Path:
        return self._context.run_dir / name


def _rate(count: int, seconds: float) -> float | None:
    """Of this attempt alone; null when it had nothing left to ask."""
    return count / seconds if count and seconds > 0 else None
