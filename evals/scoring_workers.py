"""A few processes of evals.scoring_program, each killed and replaced when it takes too long or dies."""

import asyncio
import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from evals.errors import ScoringBroken
from evals.record import MetricScore
from evals.sample import AnswerForm
from stepserve.killable import KillableProcess

PROGRAM = (sys.executable, "-m", "evals.scoring_program")
LIMIT_S = 20.0
_START_LIMIT_S = 60.0


class ScoringWorkers:
    """`workers` processes, started when first needed; leaving the context kills them."""

    def __init__(
        self, workers: int = min(4, os.cpu_count() or 1), limit_s: float = LIMIT_S, program: Sequence[str] = PROGRAM
    ) -> None:
        self._limit_s = limit_s
        self._program = program
        self._idle: asyncio.LifoQueue[KillableProcess | None] = asyncio.LifoQueue()
        for _ in range(workers):
            self._idle.put_nowait(None)
        self._running: set[KillableProcess] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in list(self._running):
            await self._end(process)

    async def score(
        self,
        metric: str,
        prediction: str,
        targets: Sequence[str],
        form: AnswerForm = "text",
        choices: Sequence[str] = (),
    ) -> MetricScore:
        """A computation that takes longer than the limit, or kills its process, is a score of 0 with an error.

        Raises ScoringBroken when no process can be started.
        """
        question = {"targets": list(targets), "form": form, "choices": list(choices)}
        answer = await self._ask({"metric": metric, "prediction": prediction, **question})
        return MetricScore.model_validate(answer)

    async def corpus(self, metric: str, stats: Sequence[float]) -> float:
        """Raises ScoringBroken."""
        answer = await self._ask({"metric": metric, "stats": list(stats)})
        if "error" in answer:
            raise ScoringBroken(f"{metric} of the whole dataset: {answer['error']}")
        return float(answer["value"])

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        process = await self._idle.get()
        alive: KillableProcess | None = None
        try:
            if process is None:
                process = await self._start()
            try:
                answer = await process.ask(request, self._limit_s)
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

    async def _start(self) -> KillableProcess:
        process = None
        try:
            process = await KillableProcess.start(self._program)
            self._running.add(process)
            async with asyncio.timeout(_START_LIMIT_S):  # the libraries are loaded outside of the limit of one score
                for metric in ("math", "bleu"):
                    await process.ask({"metric": metric, "prediction": "1", "targets": ["1"]}, _START_LIMIT_S)
        except (OSError, EOFError, TimeoutError) as error:
            if process is not None:
                await self._end(process)
            raise ScoringBroken(f"{' '.join(self._program)} does not start: {error or type(error).__name__}") from error
        return process

    async def _end(self, process: KillableProcess) -> None:
        self._running.discard(process)
        await process.end()


def _failure(reason: str) -> dict[str, Any]:
    return {"value": 0.0, "parsed": False, "error": reason}
