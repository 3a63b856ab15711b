"""What an example costs when there are a million: `nice python -m benchmarks.datagen_scale`.

A whole job without an engine: a strategy that makes its questions up, and from there on the code of every job: filters,
deduplication, contamination, the log, shards (with `--parquet` those too), the ledger in SQLite, the report. Prints
milliseconds an example and the memory of the process for each hundred thousand; then what a restart of the job costs,
what it costs the next job to take all its shards in, and how 64 trainers at once claim and acknowledge them.
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, Self

import psutil

from benchmarks.invented_questions import drawn_words, question
from control.database.database import Database, database_url
from control.shards.book import ShardBook
from control.shards.inbox import ShardInbox
from datagen.asking import Asking
from datagen.config import GenerationConfig
from datagen.kind import DataGenKind
from datagen.records import Draft, Outcome, Turn
from datagen.request import DataGenRequest
from datagen.run import RESULT_FILE
from datagen.strategy import GROUP, Sources
from stepserve.contract import AskRequest, AskResult, BatchRequest, BatchResult, BatchSampling, ModelRef
from stepserve.jobs.ports import BatchEngine, CardUse, ShardLedger
from stepserve.paths import Layout

_MODEL = ModelRef(id="none", path="/none", digest="sha256:none")
_TRAINERS = 64


class Invented:
    """A strategy that asks nobody."""

    config_model: ClassVar[type[GenerationConfig]] = GenerationConfig
    similarity_limit: ClassVar[float] = 0.9
    same_numbers: ClassVar[bool] = True
    digest = "invented"
    attempts = None

    def __init__(self, seed: int) -> None:
        self._seed = seed

    @classmethod
    def open(cls, config: GenerationConfig, _sources: Sources) -> Self:
        return cls(config.seed)

    async def attempt(self, number: int, _ask: Asking) -> Outcome:
        asked = question(self._seed, number)
        turns = (Turn("user", asked), Turn("assistant", " ".join(drawn_words(random.Random(f"answer {number}"), 30))))
        return Outcome([Draft(turns, f"row {number}", "0" * 64, BatchSampling(seed=number), "stop")])

    def learn(self, _question: str, _tags: Sequence[str]) -> None:
        pass

    def spares(self) -> frozenset[str]:
        return frozenset()

    def facts(self) -> dict[str, Any]:
        return {}


class _NoEngine:
    async def generate(self, request: BatchRequest) -> BatchResult:
        raise NotImplementedError

    async def ask(self, request: AskRequest) -> AskResult:
        raise NotImplementedError


@dataclass
class Context:
    """Implements stepserve.jobs.ports.JobContext; its reports are printed."""

    config: dict[str, Any]
    run_dir: Path
    datasets_dir: Path
    shards: ShardLedger
    job_id: str
    step: int = 100_000
    model: ModelRef = _MODEL
    batch_items: int = 64
    engine: BatchEngine = field(default_factory=_NoEngine)
    _printed: int = 0
    _since: tuple[float, float] = field(default_factory=lambda: (time.perf_counter(), time.process_time()))

    def window_items(self, _model: ModelRef) -> int:
        return 256

    async def used(self) -> CardUse:
        return CardUse()

    async def load_beside(self, model_id: str) -> ModelRef:
        raise NotImplementedError(model_id)

    async def report(self, done: int, _total: int | None) -> None:
        if done >= self._printed + self.step:
            passed = done - self._printed
            wall, cpu = time.perf_counter(), time.process_time()
            print(
                f"{done:>9} examples: {1000 * (cpu - self._since[1]) / passed:.2f} ms of processor time,"
                f" {1000 * (wall - self._since[0]) / passed:.2f} ms an example, {memory_mb():.0f} MB,"
                f" run {size_mb(self.run_dir):.0f} MB",
                flush=True,
            )
            self._printed, self._since = done, (wall, cpu)


def memory_mb() -> float:
    return float(psutil.Process().memory_info().rss) / 1e6


def size_mb(folder: Path) -> float:
    return sum(path.stat().st_blocks for path in folder.glob("*") if path.is_file()) * 512 / 1e6


def install(folder: Path) -> None:
    """The strategy, as a package would."""
    info = folder / "invented-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: invented\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\ninvented = benchmarks.datagen_scale:Invented\n")
    sys.path.append(str(folder))


async def timed(kind: DataGenKind, context: Context, what: str) -> dict[str, Any]:
    started, cpu = time.perf_counter(), time.process_time()
    result = await kind.run(context)
    print(
        f"{what}: {time.perf_counter() - started:.1f} s, {time.process_time() - cpu:.1f} s of processor time,"
        f" {memory_mb():.0f} MB",
        flush=True,
    )
    return result


async def measure(base: Path, examples: int, shard_size: int, *, parquet: bool) -> None:
    layout = Layout(base=base, models=base / "models")
    layout.create()
    with (layout.datasets / "held_out.jsonl").open("w") as file:
        for number in range(10_000):
            text = " ".join(drawn_words(random.Random(f"held out {number}"), 20))
            print(f'{{"question": "{text}", "answer": "1"}}', file=file)
    database = Database(database_url(base / "db.sqlite"))
    await database.migrate()
    kind = DataGenKind(layout)

    def context(job_id: str, count: int, seed: int = 1) -> Context:
        config = {"num_examples": count, "parquet": parquet, "seed": seed, "shard_size": shard_size}
        asked = kind.check(DataGenRequest(model_id="none", strategy="invented", config=config), layout.datasets)
        return Context(asked, layout.runs / "data_gen" / job_id, layout.datasets, ShardBook(database), job_id)

    try:
        result = await timed(kind, context("job", examples), "the whole job")
        print(
            f"accepted {result['accepted']}, rejected {result['rejected']}, {len(result['shards'])} shards", flush=True
        )
        (layout.runs / "data_gen" / "job" / RESULT_FILE).unlink()
        await timed(kind, context("job", examples), "the same job after a crash at its end")
        await timed(kind, context("next", 1000, seed=2), "the next job, of 1,000 examples, which takes in all shards")
        await hand_out(ShardInbox(database), len(result["shards"]))
    finally:
        await database.close()


async def hand_out(inbox: ShardInbox, count: int) -> None:
    """Every shard to one of many trainers, which all ask at once."""
    taken: list[str] = []
    claims_ms: list[float] = []

    async def train(trainer: int) -> None:
        while True:
            started = time.perf_counter()
            row = await inbox.claim(f"trainer {trainer}", 3600.0, "job")
            claims_ms.append(1000 * (time.perf_counter() - started))
            if row is None:
                return
            taken.append(row.name)
            await inbox.acknowledge(row.name, str(row.claim_id))

    started, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(train(number) for number in range(_TRAINERS)))
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    if len(taken) != count or len(set(taken)) != count:
        raise RuntimeError(f"{len(taken)} claims of {len(set(taken))} shards; there are {count}")
    print(
        f"{_TRAINERS} trainers claimed and acknowledged {count} shards, each once, in {seconds:.1f} s"
        f" ({1000 * cpu_s / count:.1f} ms of processor time a shard; a claim waits {median(claims_ms):.0f} ms, at most"
        f" {max(claims_ms):.0f} ms)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=1_000_000)
    parser.add_argument("--shard-size", type=int, default=1000)
    parser.add_argument("--parquet", action="store_true")
    parser.add_argument("--folder", type=Path, help="where its base directory is made (default: the temporary one)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stepserve-bench-", dir=args.folder) as folder:
        install(Path(folder) / "packages")
        os.umask(0o077)
        asyncio.run(measure(Path(folder) / "base", args.examples, args.shard_size, parquet=args.parquet))


if __name__ == "__main__":
    main()
