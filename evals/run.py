"""One evaluation, from its config to its metrics; a second attempt goes on where the first one stopped."""

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from io import BufferedReader
from pathlib import Path
from typing import Any

from control.errors import BadJob, WrongWeights
from control.ports import JobContext
from evals.datasets import digest_of, open_dataset, read_samples, resolve_dataset
from evals.feed import Feed
from evals.request import EvalConfig
from evals.run_files import read_json, write_json
from evals.samples_log import SamplesLog, record_of
from evals.scorers import SCORERS
from evals.tally import Tally

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.json"
SAMPLES_FILE = "samples.jsonl"


class EvalRun:
    """One attempt. `metrics.json` is written last and whole: a run that has it is over, and answers with it."""

    def __init__(self, context: JobContext, clock_s: Callable[[], float] = time.perf_counter) -> None:
        self._context = context
        self._clock_s = clock_s
        self._config = EvalConfig.model_validate(context.config)
        self._tally = Tally()
        self._answered: set[str] = set()

    async def run(self) -> dict[str, Any]:
        """Raises JobError, EvalError for a dataset that changed for the worse, and what the engine raises."""
        result = await asyncio.to_thread(self._earlier_result)
        if result is None:
            path = await asyncio.to_thread(resolve_dataset, self._config.dataset.name, self._context.datasets_dir)
            with open_dataset(path) as dataset:
                await asyncio.to_thread(self._check_dataset, dataset)
                with SamplesLog(self._path(SAMPLES_FILE)) as log:
                    await asyncio.to_thread(self._take_up, log)
                    await asyncio.to_thread(self._write_config)
                    result = await self._evaluate(dataset, log)
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

    def _check_dataset(self, dataset: BufferedReader) -> None:
        found, expected = digest_of(dataset), self._config.dataset.digest
        if found != expected:
            raise BadJob(f"{self._config.dataset.name} changed since the job was made: {expected} then, {found} now")

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

    async def _evaluate(self, dataset: BufferedReader, log: SamplesLog) -> dict[str, Any]:
        facts, model = self._config.dataset, self._context.model
        resumed_samples, resumed_tokens = self._tally.total, self._tally.completion_tokens
        await self._context.report(self._tally.total, facts.samples)
        samples = read_samples(dataset, facts.name, self._config.max_samples)
        feed = Feed(
            engine=self._context.engine,
            model=model,
            sampling=self._config.sampling,
            system_prompt=self._config.system_prompt,
            chunk_items=self._context.batch_items,
            window_items=self._context.batch_window_items,
        )
        started_s = self._clock_s()
        async with aclosing(feed.answers(sample for sample in samples if sample.id not in self._answered)) as answers:
            async for chunk in answers:
                records = [record_of(sample, output, SCORERS["accuracy"], model.digest) for sample, output in chunk]
                log.append(records)
                for record in records:
                    self._tally.add(record)
                await self._context.report(self._tally.total, facts.samples)
        seconds = self._clock_s() - started_s
        await asyncio.to_thread(log.sync)
        if self._tally.total != facts.samples:
            raise BadJob(f"{SAMPLES_FILE} has {self._tally.total} samples where the dataset has {facts.samples}")
        return {
            **self._tally.metrics(),
            "seconds": seconds,
            "samples_per_s": _rate(self._tally.total - resumed_samples, seconds),
            "tokens_per_s": _rate(self._tally.completion_tokens - resumed_tokens, seconds),
            "resumed_samples": resumed_samples,
            "dataset_digest": facts.digest,
            "model_digest": model.digest,
        }

    def _take_up(self, log: SamplesLog) -> None:
        for record in log.recover():
            self._check_weights(record.model_digest)
            if record.id not in self._answered:
                self._answered.add(record.id)
                self._tally.add(record)

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
