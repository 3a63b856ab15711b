"""The judge of a canary: fetches answers from the gateway, has them read, and brings the verdicts back.

What was asked and answered is in memory alone, here and there. Of what the judge says a yes or no is kept.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol

from control.errors import ServiceError
from control.promotion.canary_request import CanaryJudge
from control.promotion.set_run import Loader
from evals.judge import Judge, judge_by_id
from stepserve.canary import CanaryAnswer, CanaryAnswers, CanaryVerdict, CanaryVerdicts
from stepserve.jobs.errors import BadJob
from stepserve.jobs.ports import BatchEngine

log = logging.getLogger(__name__)

_AT_ONCE: Final = 16
_RETRY_S: Final = 1.0
_NOT_LOADED_PAUSE_S: Final = 5.0
_NO_VERDICT: Final = "its reply has neither CORRECT nor INCORRECT"


class CanaryReader(Protocol):
    async def canary_answers(self, canary_id: str, said: CanaryVerdicts) -> CanaryAnswers:
        """Hands in verdicts; what is to be read next, which is waited for where some is wanted. Raises
        GatewayUnavailable.
        """
        ...


@asynccontextmanager
async def judging(
    asked: CanaryJudge | None, canary_id: str, gateway: CanaryReader, engine: BatchEngine, load: Loader
) -> AsyncIterator[None]:
    """The judge reads for as long as this is open; whatever becomes of it, the canary goes on. None: there is none."""
    if asked is None:
        yield
        return
    async with judge_by_id(asked.spec, engine) as judge:
        reading = asyncio.create_task(_Reading(judge, asked.model, canary_id, gateway, load).run(), name="canary judge")
        try:
            yield
        finally:
            reading.cancel()
            await asyncio.wait({reading})
        if not reading.cancelled():
            reading.result()  # a defect, since it reads until it is cancelled


class _Reading:
    """`_trouble`: why the judge is not there, or gave no verdict on some of the last answers."""

    def __init__(self, judge: Judge, model_id: str, canary_id: str, gateway: CanaryReader, load: Loader) -> None:
        self._judge = judge
        self._model_id = model_id
        self._canary_id = canary_id
        self._gateway = gateway
        self._load = load
        self._is_loaded = False
        self._trouble: str | None = None

    async def run(self) -> None:
        """Until it is cancelled."""
        verdicts: list[CanaryVerdict] = []
        while True:
            await self._loaded()
            said = CanaryVerdicts(verdicts=verdicts, wanted=_AT_ONCE if self._is_loaded else 0, trouble=self._trouble)
            try:
                answers = (await self._gateway.canary_answers(self._canary_id, said)).answers
            except ServiceError as error:  # where it is more than a moment, whoever watches the canary finds out too
                log.warning("the judge of %s gets no answers: %s", self._canary_id, error)
                await asyncio.sleep(_RETRY_S)
                continue
            verdicts = await self._read(answers) if answers else []
            if not self._is_loaded:
                await asyncio.sleep(_NOT_LOADED_PAUSE_S)

    async def _loaded(self) -> None:
        """It takes no place that another model needs, so it may have to wait for room, or to be loaded again."""
        if self._is_loaded:
            return
        try:
            await self._load.load_beside(self._model_id)
        except ServiceError as error:
            self._trouble = f"{self._model_id} is not loaded: {error}"
        else:
            self._is_loaded = True

    async def _read(self, answers: list[CanaryAnswer]) -> list[CanaryVerdict]:
        self._trouble = None
        read = await asyncio.gather(*(self._verdict(answer) for answer in answers))
        return [CanaryVerdict(number=one.number, good=good) for one, good in zip(answers, read, strict=True)]

    async def _verdict(self, one: CanaryAnswer) -> bool | None:
        try:
            score = await self._judge.read(one.question, one.answer)
        except BadJob:
            self._is_loaded, self._trouble = False, f"{self._model_id} is not loaded any more"
            return None
        except ServiceError as error:
            self._trouble = f"judge: {error}"
            return None
        if not score.parsed:
            self._trouble = score.error or f"judge: {_NO_VERDICT}"
            return None
        return score.correct
