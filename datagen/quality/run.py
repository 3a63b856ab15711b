"""A run's report: made at its end, held against the limits, and written beside its manifest."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from datagen.attempts_log import AttemptLine
from datagen.config import GenerationConfig
from datagen.decontamination import ContaminationIndex, file_names
from datagen.errors import LimitMissed
from datagen.quality.limits import checked
from datagen.quality.report import REPORT_FILE, ReportMaker
from datagen.shards import ShardFacts
from evals.run_files import read_json, write_json
from stepserve.jobs.jsonl_log import JsonlLog
from stepserve.jobs.ports import JobContext

_LINES_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class RunReport:
    """`cache`: where the n-grams of datasets are kept."""

    context: JobContext
    config: GenerationConfig
    datasets_dir: Path
    cache: Path

    async def made(self, log: JsonlLog[AttemptLine], about: dict[str, str], result: dict[str, Any]) -> dict[str, Any]:
        """Reads the log from its start. Raises JobCancelled, OSError."""
        known = await asyncio.to_thread(self._known)
        maker = ReportMaker(known, self.config.shard_size)
        lines = log.recover()
        while batch := await asyncio.to_thread(lambda: list(islice(lines, _LINES_AT_ONCE))):
            await asyncio.to_thread(maker.add, batch)
            await self.context.report(result["accepted"], self.config.num_examples)
        report = maker.report(about, result, await self.context.used())
        return report | {"limits": [limit.shown() for limit in checked(self.config.quality.limits, report)]}

    async def decided(self, rows: int) -> dict[str, Any] | None:
        """That of an attempt that kept every limit and was killed while it published: what it began is ended, whatever
        the known sets or the costs are by now. None: there is none of so many rows.
        """
        kept = await asyncio.to_thread(read_json, self.context.run_dir / REPORT_FILE)
        if kept is None or not kept["limits"] or kept["job"]["rows"] != rows:
            return None
        return kept if all(limit["is_kept"] for limit in kept["limits"]) else None

    async def check(self, report: dict[str, Any]) -> None:
        """Raises LimitMissed naming every limit that is missed; the report is written first, whatever it says."""
        limits = checked(self.config.quality.limits, report)
        if limits:
            await self.write(report, ())
        if missed := [limit for limit in limits if not limit.is_kept]:
            raise LimitMissed(missed, REPORT_FILE)

    async def write(self, report: dict[str, Any], shards: Sequence[ShardFacts]) -> None:
        """`shards`: those that were published, with which the report's are named."""
        named = [
            {"name": shard.name, "sha256": shard.sha256, **measures}
            for shard, measures in zip(shards, report["shards"] if shards else (), strict=True)
        ]
        written = report | {"published": bool(shards), "shards": named or report["shards"]}
        await asyncio.to_thread(write_json, self.context.run_dir / REPORT_FILE, written)

    def _known(self) -> ContaminationIndex:
        wanted = self.config.quality.known_sets
        known = ContaminationIndex(self.config.decontaminate_words)
        known.add_folder(self.datasets_dir, self.cache, only=None if wanted is None else file_names(wanted))
        return known
