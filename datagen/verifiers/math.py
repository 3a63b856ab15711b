"""math: the reply's final expression equals the row's, by math-verify, in processes that are killed when they hang."""

from collections.abc import Sequence
from types import TracebackType
from typing import Annotated, ClassVar, Self

from pydantic import Field

from datagen.asking import Asking
from datagen.strategy import Sources
from datagen.verifier import Candidate, Verdict, VerifierConfig
from evals.scoring_workers import ScoringWorkers


class MathConfig(VerifierConfig):
    """The row's `answer_field` has the expression, as LaTeX or plain."""

    answer_field: Annotated[str, Field(min_length=1, max_length=200)] = "answer"


class Math:
    config_model: ClassVar[type[VerifierConfig]] = MathConfig
    models: Sequence[str] = ()

    def __init__(self, config: MathConfig) -> None:
        self._field = config.answer_field
        self._workers = ScoringWorkers()

    @classmethod
    def open(cls, config: MathConfig, sources: Sources) -> Self:
        return cls(config)

    async def __aenter__(self) -> Self:
        self._workers = await ScoringWorkers().__aenter__()  # queues belong to the loop that they were made in
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._workers.__aexit__(kind, error, trace)

    async def verify(self, candidate: Candidate, ask: Asking) -> Verdict:
        wanted = candidate.row.get(self._field)
        if not isinstance(wanted, str | int | float) or isinstance(wanted, bool):
            return Verdict(passed=False, score=0.0, why=f"the row has no answer in {self._field!r}")
        score = await self._workers.score("math", candidate.reply, [str(wanted)])
        if score.correct:
            return Verdict(passed=True)
        return Verdict(passed=False, score=0.0, why=score.error or f"not the same as {str(wanted)[:100]}")
