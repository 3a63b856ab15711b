"""json_schema: the reply is JSON that fits a schema, checked in a process that is killed when it hangs."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, ClassVar, Final, Self

from pydantic import Field

from datagen.asking import Asking
from datagen.rendering import Rendering, RenderingStopped
from datagen.schema import validator_of
from datagen.strategy import Sources
from datagen.verifier import Candidate, Verdict, VerifierConfig
from evals.programs import code_of

_SCHEMA: Final = "schema"


class JsonSchemaConfig(VerifierConfig):
    """A reply may have the JSON in a code block."""

    json_schema: dict[str, Any] = Field(alias="schema")


class JsonSchema:
    config_model: ClassVar[type[VerifierConfig]] = JsonSchemaConfig
    models: Sequence[str] = ()

    def __init__(self, config: JsonSchemaConfig, limit_s: float) -> None:
        validator_of(_SCHEMA, config.json_schema)
        self._rendering = Rendering({}, {_SCHEMA: config.json_schema}, limit_s=limit_s)

    @classmethod
    def open(cls, config: JsonSchemaConfig, sources: Sources) -> Self:
        return cls(config, sources.render_limit_s)

    async def __aenter__(self) -> Self:
        await self._rendering.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._rendering.__aexit__(kind, error, trace)

    async def verify(self, candidate: Candidate, ask: Asking) -> Verdict:
        try:
            made = await self._rendering.answer(
                {"row": {}, "texts": [], "said": code_of(candidate.reply), "schema": _SCHEMA}, "verifiers: the schema"
            )
        except RenderingStopped as error:
            return Verdict(passed=False, score=0.0, why=str(error))
        if "rejected" not in made:
            return Verdict(passed=True)
        reason, why = made["rejected"]
        return Verdict(passed=False, score=0.0, why=why or "not valid JSON" if reason == "not_json" else why)
