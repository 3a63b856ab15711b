"""custom: a prompt template of the user's own, filled with rows, and answers taken as they are, or verified."""

from collections.abc import Sequence
from types import TracebackType
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import Field, model_validator

from datagen.asking import Asking
from datagen.config import GenerationConfig
from datagen.records import Draft, Outcome, Rejection, Turn, prompt_sha, sha_of
from datagen.rendering import Rendering, tried
from datagen.row_config import RowConfig, TemplateText
from datagen.rows import Row, RowFile
from datagen.schema import validator_of
from datagen.solving import Method, SolvePlan, Solver, chat, seed_of
from datagen.strategy import Sources
from stepserve.contract import BatchItem, BatchOutput, BatchSampling

_SCHEMA: Final = "json_schema"


class CustomConfig(RowConfig):
    """With a `json_schema` the answer is an object of that kind, and `user` and
    `assistant` (templates too, which also know `output`) say what of it becomes the example; without them it is the
    prompt and the answer. Each row is asked `samples_per_row` times.

    verify: `none`; `executed`: the question is arithmetic and is worked out here; `gold`: the row's `answer_field` is
    the answer; `majority`: 60 % of the samples and a second prompt agree. `only_unsolved`: none that the model gets
    right when asked without sampling.
    """

    user: TemplateText | None = None
    assistant: TemplateText | None = None
    json_schema: dict[str, Any] | None = None
    samples_per_row: Annotated[int, Field(ge=1, le=64)] = 1
    verify: Literal["none", "executed", "gold", "majority"] = "none"
    keep_solutions: Annotated[int, Field(ge=1, le=4)] = 4
    only_unsolved: bool = False

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.verify != "none" and (self.user or self.assistant or self.json_schema):
            raise ValueError("verify goes with neither json_schema nor user and assistant templates")
        if self.only_unsolved and self.verify not in {"executed", "gold"}:
            raise ValueError("only_unsolved needs a known answer, so verify must be executed or gold")
        return self


class Custom:
    """As a context for the time of a run: it holds the process that fills its templates."""

    config_model: ClassVar[type[GenerationConfig]] = CustomConfig
    similarity_limit: ClassVar[float] = 0.9
    same_numbers: ClassVar[bool] = True

    def __init__(self, config: CustomConfig, rows: RowFile | Sequence[Row] | None, sources: Sources) -> None:
        """Raises Refused."""
        self._config = config
        self._rows = rows
        named = {"template": config.template, "user": config.user, "assistant": config.assistant}
        templates = {name: text for name, text in named.items() if text is not None}
        self._shown = [name for name in ("user", "assistant") if name in templates]
        if config.json_schema is not None:
            validator_of(_SCHEMA, config.json_schema)
        schemas = {} if config.json_schema is None else {_SCHEMA: config.json_schema}
        self._rendering = Rendering(templates, schemas, limit_s=sources.render_limit_s)
        self._sampling = BatchSampling(
            temperature=0.7 if config.temperature is None else config.temperature,
            top_p=config.top_p or 1.0,
            max_tokens=config.max_tokens or 512,
            json_schema=config.json_schema,
        )
        plan = SolvePlan(
            sampling=self._sampling,
            system_prompt=config.system_prompt,
            samples=config.samples_per_row,
            keep=config.keep_solutions,
            only_unsolved=config.only_unsolved,
        )
        self._solver = Solver(plan, config.seed)
        self.digest = rows.digest if isinstance(rows, RowFile) else sha_of(rows)
        if sources.new:
            tried(templates, schemas, self._row(0), ["template"], sources.render_limit_s)

    async def __aenter__(self) -> Self:
        await self._rendering.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._rendering.__aexit__(kind, error, trace)

    @classmethod
    def open(cls, config: CustomConfig, sources: Sources) -> Self:
        return cls(config, config.opened_rows(sources), sources)

    @property
    def attempts(self) -> int | None:
        """One a row; without rows there is no end of it."""
        return None if self._rows is None else len(self._rows)

    async def attempt(self, number: int, ask: Asking) -> Outcome:
        row = self._row(number)
        source_id = "" if self._rows is None else str(row.get("id", number + 1))
        filled = await self._rendering.answer(
            {"row": row, "texts": ["template"]}, f"config.template: attempt {number + 1} (row {source_id!r})"
        )
        if "failed" in filled:
            return Outcome(rejections=[Rejection("template_failed", {"row": source_id, "why": filled["failed"]})])
        prompt = filled["texts"][0].strip()
        method = self._config.verify
        if method != "none":
            return await self._verified(prompt, row, number, ask, source_id, method)
        items = [
            chat(prompt, self._seeded(number, sample), self._config.system_prompt)
            for sample in range(self._config.samples_per_row)
        ]
        drafts: list[Draft] = []
        rejections: list[Rejection] = []
        for item, output in zip(items, await ask(items), strict=True):
            made = await self._draft(prompt, row, item, output, source_id)
            if isinstance(made, Draft):
                drafts.append(made)
            else:
                rejections.append(made)
        return Outcome(drafts, rejections)

    def learn(self, _question: str, _tags: Sequence[str]) -> None:
        pass

    def spares(self) -> frozenset[str]:
        return frozenset()

    def facts(self) -> dict[str, Any]:
        return {} if self._rows is None else {"rows": len(self._rows)}

    def _row(self, number: int) -> Row:
        return {} if self._rows is None else self._rows[number]

    async def _verified(
        self, prompt: str, row: Row, number: int, ask: Asking, source_id: str, method: Method
    ) -> Outcome:
        gold: str | None = None
        if method == "gold":
            gold = self._config.known_answer(row)
            if gold is None:
                return Outcome(rejections=[Rejection("no_gold", {"row": source_id, "verifier": "gold"})])
        return await self._solver.solve(prompt, ask, (number,), source_id=source_id, gold=gold, method=method, row=row)

    def _seeded(self, number: int, sample: int) -> BatchSampling:
        return self._sampling.model_copy(update={"seed": seed_of(self._config.seed, number, sample)})

    async def _draft(
        self, prompt: str, row: Row, item: BatchItem, output: BatchOutput, source_id: str
    ) -> Draft | Rejection:
        if output.error is not None:
            return Rejection("engine_error", {"row": source_id, "why": output.error[:200]})
        asked, said = prompt, output.text.strip()
        if self._shown or self._config.json_schema is not None:
            schema = None if self._config.json_schema is None else _SCHEMA
            task = {"row": row, "texts": self._shown, "said": output.text, "schema": schema}
            made = await self._rendering.answer(task, f"config: the answer to row {source_id!r}")
            if "failed" in made:
                return Rejection("template_failed", {"row": source_id, "why": made["failed"]})
            if "rejected" in made:
                reason, why = made["rejected"]
                if reason == "not_json":
                    return Rejection("truncated" if output.finish_reason == "length" else reason, {"row": source_id})
                return Rejection(reason, {"row": source_id, "why": why})
            texts = dict(zip(self._shown, (text.strip() for text in made["texts"]), strict=True))
            asked, said = texts.get("user", asked), texts.get("assistant", said)
        assert item.sampling is not None
        opening = () if self._config.system_prompt is None else (Turn("system", self._config.system_prompt),)
        return Draft(
            turns=(*opening, Turn("user", asked), Turn("assistant", said)),
            source_id=source_id,
            row=row,
            prompt_sha=prompt_sha(item),
            sampling=item.sampling,
            finish_reason=output.finish_reason,
            verify_method="none" if self._config.json_schema is None else "schema",
            verify_score=0.0 if self._config.json_schema is None else 1.0,
        )
