"""second_model: another model, asked the same without sampling, comes to the same final answer."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Self

from pydantic import Field

from datagen.answers import final_answer, same_answer
from datagen.asking import Asking
from datagen.solving import chat
from datagen.strategy import Sources
from datagen.verifier import Candidate, Verdict, VerifierConfig
from stepserve.contract import BatchSampling


class SecondModelConfig(VerifierConfig):
    """`model`: the id of a registered model, loaded beside the job's own."""

    model: Annotated[str, Field(min_length=1, max_length=200)]
    max_tokens: Annotated[int, Field(ge=1, le=100_000)] = 512


class SecondModel:
    config_model: ClassVar[type[VerifierConfig]] = SecondModelConfig

    def __init__(self, config: SecondModelConfig) -> None:
        self._model = config.model
        self._sampling = BatchSampling(max_tokens=config.max_tokens)

    @classmethod
    def open(cls, config: SecondModelConfig, sources: Sources) -> Self:
        return cls(config)

    @property
    def models(self) -> Sequence[str]:
        return (self._model,)

    async def verify(self, candidate: Candidate, ask: Asking) -> Verdict:
        mine = final_answer(candidate.reply)
        if mine is None:
            return Verdict(passed=False, score=0.0, why="the answer has no final answer")
        (output,) = await ask.model(self._model, [chat(candidate.question, self._sampling)])
        if output.error is not None:
            return Verdict(passed=False, score=0.0, why=f"{self._model} could not be asked: {output.error[:150]}")
        theirs = final_answer(output.text)
        if theirs is not None and same_answer(theirs, mine):
            return Verdict(passed=True)
        said = "no final answer" if theirs is None else theirs[:80]
        return Verdict(passed=False, score=0.0, why=f"{self._model} says {said}, not {mine[:80]}")
