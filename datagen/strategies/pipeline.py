"""pipeline: columns that are made out of each other, row by row, and examples made out of a row."""

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field

from datagen.asking import Asking
from datagen.config import GenerationConfig
from datagen.pipelines.plan import Plan
from datagen.pipelines.walker import Walk, Walker
from datagen.records import Draft, Outcome, Rejection, Turn, prompt_sha
from datagen.row_config import TemplateText
from datagen.strategy import Sources
from datagen.verification import BETWEEN
from stepserve.contract import BatchSampling

_MOST_COLUMNS = 64


class PipelineConfig(GenerationConfig):
    """`columns`: objects with `name`, `kind` and the kind's own fields (datagen.pipelines.columns). `user` and
    `assistant`, and `system` where there is one, are templates that make the example of a row. `system_prompt` goes to
    prompt columns without a `system` of their own, and not into the example.
    """

    columns: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=_MOST_COLUMNS)]
    user: TemplateText
    assistant: TemplateText
    system: TemplateText | None = None


class Pipeline:
    """As a context for the time of a run."""

    config_model: ClassVar[type[GenerationConfig]] = PipelineConfig
    similarity_limit: ClassVar[float] = 0.9
    same_numbers: ClassVar[bool] = True

    def __init__(self, config: PipelineConfig, sources: Sources) -> None:
        """Raises Refused, ConfigRefused."""
        self._ends = {"user": config.user, "assistant": config.assistant}
        if config.system is not None:
            self._ends = {"system": config.system, **self._ends}
        self._plan = Plan.of(config.columns, self._ends)
        self._walker = Walker(self._plan, config, sources)
        self._last_prompt = self._plan.last_prompt("assistant")
        self.digest = self._walker.digest

    @classmethod
    def open(cls, config: PipelineConfig, sources: Sources) -> Self:
        return cls(config, sources)

    async def __aenter__(self) -> Self:
        await self._walker.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._walker.__aexit__(kind, error, trace)

    @property
    def asked_models(self) -> Mapping[str, str]:
        return self._walker.models

    @property
    def attempts(self) -> int | None:
        """As many as there are rows, where a column takes rows in turn; None: no end."""
        return self._walker.ends_after

    @property
    def of_items(self) -> frozenset[str]:
        """The names of the columns that each item of a split row has for itself."""
        split = self._plan.split
        return frozenset(each.name for each in ([] if split is None else [split, *self._plan.of_items]))

    @property
    def order(self) -> list[str]:
        """The names of the columns as they are made."""
        return [each.name for each in self._plan.columns]

    async def attempt(self, number: int, ask: Asking) -> Outcome:
        _, outcome = await self.walked(number, ask)
        return outcome

    async def walked(self, number: int, ask: Asking) -> tuple[list[Walk], Outcome]:
        """The attempt, with what its columns came to: a row, or each item of one that is split."""
        walks = await self._walker.walk(number, ask)
        drafts: list[Draft] = []
        rejections: list[Rejection] = []
        for walk in walks:
            made = walk.rejection or await self._walker.filled(list(self._ends), walk.values, number)
            if isinstance(made, Rejection):
                rejections.append(made)
            else:
                drafts.append(self._draft(walk, made, number))
        return walks, Outcome(drafts, rejections)

    def learn(self, _question: str, _tags: Sequence[str]) -> None:
        pass

    def spares(self) -> frozenset[str]:
        return frozenset()

    def facts(self) -> dict[str, Any]:
        return {"columns": self.order, "rows": self._walker.rows}

    def _draft(self, walk: Walk, texts: Sequence[str], number: int) -> Draft:
        asked = None if self._last_prompt is None else walk.asked[self._last_prompt]
        sampling = BatchSampling() if asked is None else asked[0].sampling
        assert sampling is not None
        return Draft(
            turns=tuple(Turn(role, text) for role, text in zip(self._ends, texts, strict=True)),
            source_id=self._walker.source_id(walk, number),
            prompt_sha="" if asked is None else prompt_sha(asked[0]),
            sampling=sampling,
            finish_reason=None if asked is None else asked[1].finish_reason,
            verify_method=BETWEEN.join(name for name, _ in walk.verified) or "none",
            verify_score=min((score for _, score in walk.verified), default=0.0),
            row=walk.values,
        )
