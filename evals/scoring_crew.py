"""A few processes of evals.scoring_program, each killed and replaced when it takes too long or dies."""

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from evals.errors import ScoringBroken
from evals.record import MetricScore

PROGRAM = (sys.executable, "-m", "evals.scoring_program")
LIMIT_S = 20.0
_START_LIMIT_S = 60.0
_LONGEST_LINE = 16 * 1024**2


class ScoringCrew:
    """`workers` processes, started when first needed; leaving the context kills them."""

    def __init__(
        self, workers: int = min(4, os.cpu_count() or 1), limit_s: float = LIMIT_S, program: Sequence[str] = PROGRAM
    ) -> None:
        self._limit_s = limit_s
        self._program = program
        self._idle: asyncio.LifoQueue[asyncio.subprocess.Process | None] = asyncio.LifoQueue()
        for _ in range(workers):
            self._idle.put_nowait(None)
        self._running: set[asyncio.subprocess.Process] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in list(self._running):
            await self._end(process)

    async def score(self, metric: str, prediction: str, targets: Sequence[str]) -> MetricScore:
        """A computation that takes longer than the limit, or kills its process, is a score of 0 with an error.

        Raises ScoringBroken when no process can be started.
        """
        answer = await self._ask({"metric": metric, "prediction": prediction, "targets": list(targets)})
        return MetricScore.model_validate(answer)

    async def corpus(self, metric: str, stats: Sequence[float]) -> float:
        """Raises ScoringBroken."""
        answer = await self._ask({"metric": metric, "stats": list(stats)})
        if "error" in answer:
            raise ScoringBroken(f"{metric} of the whole dataset: {answer['error']}")
        return float(answer["value"])

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        process = await self._idle.get()
        alive: asyncio.subprocess.Process | None = None
        try:
            if process is None:
                process = await self._start()
            try:
                async with asyncio.timeout(self._limit_s):
                    answer = await _exchange(process, request)
                alive = process
            except TimeoutError:
                answer = _failure(f"took longer than {self._limit_s:g} s")
            except (ConnectionError, EOFError):
                answer = _failure("the process that worked it out died (too much memory, most often)")
            return answer
        finally:
            if alive is None and process is not None:
                await asyncio.shield(self._end(process))
            self._idle.put_nowait(alive)

    async def _start(self) -> asyncio.subprocess.Process:
        process = None
        try:
            process = await asyncio.create_subprocess_exec(
                *self._program,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=_LONGEST_LINE,
            )
            self._running.add(process)
            async with asyncio.timeout(_START_LIMIT_S):  # the libraries are loaded outside of the limit of one score
                for metric in ("math", "bleu"):
                    await _exchange(process, {"metric": metric, "prediction": "1", "targets": ["1"]})
        except (OSError, EOFError, TimeoutError) as error:
            if process is not None:
                await self._end(process)
            raise ScoringBroken(f"{' '.join(self._program)} does not start: {error or type(error).__name__}") from error
        return process

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        self._running.discard(process)
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _exchange(process: asyncio.subprocess.Process, request: dict[str, Any]) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(request).encode() + b"\n")
    await process.stdin.drain()
    line = await process.stdout.readline()
    if not line.endswith(b"\n"):
        raise EOFError("it ended without an answer")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _failure(reason: str) -> dict[str, Any]:
    return {"value": 0.0, "parsed": False, "error": reason}
