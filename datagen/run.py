"""One data generation job, from its config to its shards; a second attempt goes on where the first one stopped.

Everything is in attempts.jsonl: its accepted examples, in its order, cut into lots of `shard_size`, are the shards. An
attempt is a line of it or was never made.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from datagen.asking import Asking
from datagen.attempting import Attempting
from datagen.attempts_log import LOG_FILE, AttemptLine, open_attempts
from datagen.completed_attempts import CompletedAttempts
from datagen.concurrent_attempts import ConcurrentAttempts, FinishedAttempt
from datagen.config import GenerationConfig
from datagen.decontamination import ContaminationIndex, file_names
from datagen.deduplicator import Deduplicator
from datagen.errors import NothingPassed
from datagen.filters import Filters
from datagen.manifest import write_card, write_manifest
from datagen.places import SHARDS
from datagen.pool import Pool
from datagen.quality.run import RunReport
from datagen.records import Origin, subject
from datagen.request import StoredConfig
from datagen.shard_cutter import ShardCutter
from datagen.shards import ShardWriter, pausing_when_full
from datagen.similarity import Fingerprint
from datagen.strategy import Consulting, Sources, Strategy
from datagen.tally import Tally
from datagen.verification import Ranking, Verification
from datagen.ways import opened_ways
from evals.run_files import read_json, write_json
from stepserve.jobs.errors import BadJob, WrongWeights
from stepserve.jobs.jsonl_log import JsonlLog
from stepserve.jobs.ports import JobContext

CONFIG_FILE = "config.json"
RESULT_FILE = "result.json"
CALIBRATION_FILE = "calibration.json"
NGRAMS_FOLDER = ".ngrams"
_LINES_AT_ONCE = 500


class DataGenRun:
    """One attempt at the job. `result.json` is written last and whole: a run that has it is over."""

    def __init__(
        self,
        context: JobContext,
        sources: Sources,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._context = context
        self._sources = sources
        self._now = now
        self._clock_s = clock_s
        self._stored = StoredConfig.model_validate(context.config)
        self._config: GenerationConfig = self._stored.parsed()
        self._tally = Tally()
        self._completed = CompletedAttempts()
        writer = ShardWriter(
            ledger=context.shards,
            base_dir=sources.base_dir,
            models_dir=sources.models_dir,
            run_dir=context.run_dir,
            folder=self._config.output_dir,
            job_id=context.job_id,
            format=self._config.format,
            parquet=self._config.parquet,
            now=now,
        )
        withheld = bool(self._config.quality.limits.given())
        self._cutter = ShardCutter(writer, self._config.shard_size, withheld=withheld)

    async def run(self) -> dict[str, Any]:
        """Raises JobError, JobPaused (the disk is full), DataGenError, and what the engine raises."""
        with pausing_when_full(self._context.run_dir):
            earlier = await asyncio.to_thread(self._earlier_result)
            if earlier is not None:
                return earlier
            with ExitStack() as stack:
                strategy, index, pool = await asyncio.to_thread(self._prepare, stack)
                log = stack.enter_context(open_attempts(self._context.run_dir / LOG_FILE))
                await self._take_up(log, strategy, pool)
                await asyncio.to_thread(self._write_config, strategy)
                async with AsyncExitStack() as held:
                    if isinstance(strategy, AbstractAsyncContextManager):
                        await held.enter_async_context(strategy)
                    await self._generate(log, strategy, index, pool)
                return await self._conclude(log, strategy, index)

    @property
    def _missing(self) -> int:
        return self._config.num_examples - self._tally.accepted

    def _earlier_result(self) -> dict[str, Any] | None:
        self._context.run_dir.mkdir(parents=True, exist_ok=True)
        result = read_json(self._context.run_dir / RESULT_FILE)
        if result is not None:
            self._check_weights(str(result["model_digest"]))
        return result

    def _prepare(self, stack: ExitStack) -> tuple[Strategy, ContaminationIndex | None, Pool]:
        strategy = self._stored.open_strategy(replace(self._sources, new=False))
        if strategy.digest != self._stored.source_digest:
            raise BadJob("the job's input (rows, seeds or eval run) changed after the job was made")
        index = None
        if self._config.decontaminate:
            index = ContaminationIndex(self._config.decontaminate_words)
            spared = file_names(self._config.decontaminate_except)
            index.add_folder(self._sources.datasets_dir, self._context.run_dir.parent / NGRAMS_FOLDER, spared)
        earlier = self._config.against_earlier_shards
        pool = Pool(self._context.run_dir, earlier=earlier, same_numbers=strategy.same_numbers)
        stack.enter_context(pool)
        folders = {self._sources.base_dir / self._config.output_dir, self._sources.base_dir / SHARDS}
        pool.catch_up(sorted(folders))
        return strategy, index, pool

    async def _take_up(self, log: JsonlLog[AttemptLine], strategy: Strategy, pool: Pool) -> None:
        """What the log says is done; shards that a crash left undone are finished."""
        lines = log.recover()
        while batch := await asyncio.to_thread(lambda: list(islice(lines, _LINES_AT_ONCE))):
            await asyncio.to_thread(_remember, pool, batch)
            for line in batch:
                self._note(line, strategy)
            await self._cutter.publish_full(log)
        await self._context.report(self._tally.accepted, self._config.num_examples)

    def _note(self, line: AttemptLine, strategy: Strategy) -> None:
        self._completed.add(line.attempt)
        self._tally.add(line)
        for record in line.accepted:
            self._check_weights(record["metadata"]["model_digest"])
            strategy.learn(_asked(record), str(record["metadata"]["tags"]).split())
        self._cutter.add(line.accepted)

    async def _generate(
        self, log: JsonlLog[AttemptLine], strategy: Strategy, index: ContaminationIndex | None, pool: Pool
    ) -> None:
        at_most = self._config.attempts_at_most(strategy.attempts)
        numbers = (number for number in range(at_most) if number not in self._completed)
        deduplicator = Deduplicator(
            origin=self._origin,
            contamination=index,
            pool=pool,
            limit=self._config.max_similarity if self._config.max_similarity is not None else strategy.similarity_limit,
            spared=strategy.spares(),
        )
        filters = Filters(self._config.filters, self._config.lengths)
        verification = await asyncio.to_thread(Verification.open, self._config, replace(self._sources, new=False))
        run, started_s = self._tally.next_run, self._clock_s()
        models = verification.models | (dict(strategy.asked_models) if isinstance(strategy, Consulting) else {})
        async with verification, opened_ways(self._context, strategy, models) as ways:
            await self._calibrate(verification, Asking(ways))
            if isinstance(strategy, Ranking):
                strategy.ranks_by(verification)
            attempts = ConcurrentAttempts(ways, numbers, Attempting(strategy, filters, verification).make)
            try:
                while self._missing > 0 and (finished := await attempts.finished(self._useful_attempts())):
                    created_at = self._now().isoformat(timespec="microseconds")  # else some look like another type
                    at_s, busy_s = self._clock_s() - started_s, ways.own.busy_s
                    lines = await asyncio.to_thread(self._judge, deduplicator, finished, created_at, run, at_s, busy_s)
                    await asyncio.to_thread(log.append, lines)
                    for line in lines:
                        self._note(line, strategy)
                    await self._cutter.publish_full(log)
                    await self._context.report(self._tally.accepted, self._config.num_examples)
            finally:
                await attempts.dismiss()

    async def _calibrate(self, verification: Verification, ask: Asking) -> None:
        """Once a job: what was found is kept."""
        path = self._context.run_dir / CALIBRATION_FILE
        if await asyncio.to_thread(read_json, path) is None:
            found = await verification.calibrate(ask)
            if found is not None:
                await asyncio.to_thread(write_json, path, found)

    def _useful_attempts(self) -> int:
        """How many may be under way: twice what is likely to be needed, so that little is made in vain at the end.

        While nothing was accepted that is a guess, which grows with every attempt.
        """
        accepted, attempts = self._tally.accepted, self._tally.attempts
        useful = 2 * self._missing * attempts // accepted if accepted else 4 * self._missing + attempts
        return min(self._context.window_items(self._context.model), max(8, useful))

    def _judge(
        self,
        deduplicator: Deduplicator,
        finished: list[FinishedAttempt],
        created_at: str,
        run: int,
        at_s: float,
        busy_s: float,
    ) -> list[AttemptLine]:
        room = self._missing
        lines = []
        with deduplicator.pool.at_once():
            for attempted in finished:
                if room == 0:
                    break  # made in vain: it is not counted
                verdict = deduplicator.judge(attempted.drafts, room, created_at)
                room -= len(verdict.accepted)
                lines.append(attempted.line(verdict.accepted, verdict.rejected, run, at_s, busy_s))
        return lines

    async def _conclude(
        self, log: JsonlLog[AttemptLine], strategy: Strategy, index: ContaminationIndex | None
    ) -> dict[str, Any]:
        await asyncio.to_thread(log.sync)
        cache = self._context.run_dir.parent / NGRAMS_FOLDER
        quality = RunReport(self._context, self._config, self._sources.datasets_dir, cache)
        report = await quality.decided(self._tally.accepted) or await quality.made(
            log, self._about, self._tally.result()
        )
        if not self._tally.accepted:
            await quality.write(report, ())
            reasons = ", ".join(f"{reason} {count}" for reason, count in self._tally.rejected.items()) or "none"
            raise NothingPassed(
                f"not one example passed after {self._tally.attempts} attempts; rejected: {reasons}"
                f" (see {LOG_FILE} of the run)"
            )
        await quality.check(report)
        await self._cutter.publish_rest(log)
        await quality.write(report, self._cutter.shards)
        result = self._tally.result() | {
            "num_examples": self._config.num_examples,
            "partial": self._missing > 0,
            "shards": [shard.name for shard in self._cutter.shards],
            "decontamination": self._decontamination(index),
            "seed": self._config.seed,
            "model_digest": self._context.model.digest,
            "judge_calibration": await asyncio.to_thread(read_json, self._context.run_dir / CALIBRATION_FILE),
            **strategy.facts(),
        }
        await asyncio.to_thread(self._write_end, result)
        return result

    def _decontamination(self, index: ContaminationIndex | None) -> dict[str, Any]:
        if index is None:
            return {"on": False}
        return {
            "on": True,
            "datasets": index.datasets,
            "words": index.most_words,
            "ngrams": index.ngrams,
            "unreadable": index.unreadable,
            "except": self._config.decontaminate_except,
            "removed": self._tally.rejected.get("contaminated", 0),
            "first_removed": self._tally.contaminated,
        }

    def _write_end(self, result: dict[str, Any]) -> None:
        run_dir = self._context.run_dir
        write_manifest(run_dir, self._about, self._config, self._cutter.shards, result)
        write_card(run_dir, self._about, self._config, self._cutter.shards, result)
        write_json(run_dir / RESULT_FILE, result)

    def _write_config(self, strategy: Strategy) -> None:
        model = self._context.model
        write_json(
            self._context.run_dir / CONFIG_FILE,
            {
                "job_id": self._context.job_id,
                "type": "data_gen",
                **self._context.config,
                "model": {"id": model.id, "path": model.path, "digest": model.digest},
                "works_on": strategy.facts(),
            },
        )

    def _check_weights(self, earlier_digest: str) -> None:
        model = self._context.model
        if earlier_digest != model.digest:
            raise WrongWeights(
                f"{self._context.job_id} was begun with {earlier_digest}; {model.id} is {model.digest} now"
            )

    @property
    def _about(self) -> dict[str, str]:
        return {"job_id": self._context.job_id, "strategy": self._stored.strategy, "model": self._context.model.id}

    @property
    def _origin(self) -> Origin:
        return Origin(
            job_id=self._context.job_id,
            strategy=self._stored.strategy,
            domain=self._config.domain,
            generator_model=self._context.model.id,
            model_digest=self._context.model.digest,
        )


def _asked(record: dict[str, Any]) -> str:
    return "\n".join(message["content"] for message in record["messages"] if message["role"] == "user")


def _remember(pool: Pool, lines: list[AttemptLine]) -> None:
    questions = {
        subject(_asked(record), record["metadata"]["strategy"]): record["id"]
        for line in lines
        for record in line.accepted
    }
    pool.add([(id_, Fingerprint(question)) for question, id_ in questions.items()])
