"""What it costs control to feed a job to many members: the real scheduler, choice and client, over real sockets."""

import itertools
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fleet.answering import SAMPLES_AT_ONCE
from control.database.database import Database, database_url
from control.fleet.job_members import JobMembers
from control.fleet.member_book import MemberBook
from control.fleet.members import Members
from control.gateway_client import GatewayClient
from control.jobs.limits import Window
from control.jobs.spread_engine import SpreadEngine
from stepserve import __version__
from stepserve.contract import BatchItem, BatchOutput, ChatMessage, ModelRef
from stepserve.fleet import Committed, HeartbeatRequest, JoinRequest
from stepserve.fleet_settings import FleetSettings
from stepserve.jobs.batch_scheduler import BatchScheduler, generating
from stepserve.settings import Settings

_MODEL = ModelRef(id="m", path="/m", digest="sha256:" + "0" * 64)
_BATCH_ITEMS = Settings().batch_items


@dataclass(frozen=True, slots=True)
class Fed:
    """`samples_per_s`: what came back; `possible_per_s`: what the members could do. `cores`: of control, meanwhile."""

    samples_per_s: float
    possible_per_s: float
    cores: float

    @property
    def sample_us(self) -> float:
        """CPU time of control for one sample."""
        return self.cores / self.samples_per_s * 1e6


async def feed(count: int, seconds: float, sample_s: float) -> Fed:
    """`count` gateways, control's own among them, for so long after a whole window of answers. Nothing is scored.

    `sample_s`: what a sample takes there, of which each gateway has SAMPLES_AT_ONCE at a time.
    """
    logging.disable(logging.WARNING)
    with answering(sample_s) as port:
        async with _engine(count - 1, port) as engine:
            question = BatchItem(messages=[ChatMessage(role="user", content="What is 19 + 23? Think step by step.")])
            async with BatchScheduler(
                generating(engine, _MODEL),
                chunk_items=_BATCH_ITEMS,
                window_items=lambda: engine.window_items(_MODEL),
            ) as scheduler:
                answers = scheduler.stream(itertools.repeat(question))
                window_items = engine.window_items(_MODEL)
                await _count(answers, lambda samples: samples >= window_items)
                started_s, cpu_s = time.monotonic(), time.process_time()
                samples = await _count(answers, lambda _: time.monotonic() >= started_s + seconds)
                took_s = time.monotonic() - started_s
                cores = (time.process_time() - cpu_s) / took_s
                await answers.aclose()
    return Fed(samples / took_s, count * SAMPLES_AT_ONCE / sample_s, cores)


async def _count(answers: AsyncGenerator[list[tuple[BatchItem, BatchOutput]]], enough: Callable[[int], bool]) -> int:
    samples = 0
    async for chunk in answers:
        samples += len(chunk)
        if enough(samples):
            break
    return samples


@contextmanager
def answering(sample_s: float) -> Iterator[int]:
    """The port of a process that plays all members."""
    command = [sys.executable, "-m", "benchmarks.fleet.answering", str(sample_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


@asynccontextmanager
async def _engine(others: int, port: int) -> AsyncIterator[SpreadEngine]:
    """Of an attempt at a job on control's own gateway and so many members, which have joined and are ready."""
    with tempfile.TemporaryDirectory(prefix="stepserve-bench-") as folder:
        database = Database(database_url(Path(folder) / "db.sqlite"))
        await database.migrate()
        book = MemberBook(database)
        url = f"http://127.0.0.1:{port}"
        settings = FleetSettings(lease_s=3600)
        tokens = {f"g{number:03}": f"{number:043}" for number in range(others)}
        for name, token in tokens.items():
            joins = JoinRequest(
                id=name, url=url, token=token, boot_id="b", stepserve_version=__version__, now_s=time.time()
            )
            await book.put(joins)
        members = Members(book, settings)
        await members.open()
        members.committed = Committed(model=_MODEL.id, digest=_MODEL.digest)
        for name, token in tokens.items():
            beat = HeartbeatRequest(id=name, token=token, model=_MODEL.id, digest=_MODEL.digest, serving=True)
            await members.beat(beat)
        local = GatewayClient.of_member(url, "l" * 43, settings.tls(), settings.heartbeat_s)
        try:
            yield SpreadEngine(
                local=local,
                fleet=JobMembers(members),
                own_window_items=Window(SAMPLES_AT_ONCE, _BATCH_ITEMS).items(),
                on_shared=lambda: None,
            )
        finally:
            await local.close()
            await members.close()
            await database.close()
