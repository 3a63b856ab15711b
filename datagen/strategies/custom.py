"""custom: a prompt template of the user's own, filled with rows, and answers taken as they are, or verified."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from datagen.asking import Asking
from datagen.config import GenerationConfig
from datagen.errors import Refused
from datagen.records import Draft, Outcome, Rejection, Turn, prompt_sha, sha_of
from datagen.rows import Row, RowFile
from datagen.schema import validator_of
from datagen.solving import Method, SolvePlan, Solver, chat, seed_of
from datagen.strategy import Sources
from datagen.templates import PromptTemplate, TemplateFailed
from switchyard.contract import BatchItem, BatchOutput, BatchSampling

_MOST_INLINE_ROWS = 10_000

TemplateText = Annotated[str, Field(min_length=1, max_length=50_000)]


class CustomConfig(GenerationConfig):
    """`template` makes the prompt of a row. With a `json_schema` the answer is an object of that kind, and `user` and
    `assistant` (templates too, which also know `output`) say what of it becomes the example; without them it is the
    prompt and the answer. Rows come from `rows`, from `dataset_ref` (in datasets/) or from `input` (a JSONL file in
    the base directory); without any there is one empty row, for ever. Each is asked `samples_per_row` times.

    verify: `none`; `executed`: the question is arithmetic and is worked out here; `gold`: the row's `answer_field` is
    the answer; `majority`: 60 % of the samples and a second prompt agree. `only_unsolved`: none that the model gets
    right when asked without sampling.
    """

    template: TemplateText
    user: TemplateText | None = None
    assistant: TemplateText | None = None
    json_schema: dict[str, Any] | None = None
    rows: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=_MOST_INLINE_ROWS)] | None = None
    dataset_ref: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    input: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    samples_per_row: Annotated[int, Field(ge=1, le=64)] = 1
    verify: Literal["none", "executed", "gold", "majority"] = "none"
    answer_field: Annotated[str, Field(min_length=1, max_length=200)] = "answer"
    keep_solutions: Annotated[int, Field(ge=1, le=4)] = 4
    only_unsolved: bool = False

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if sum(source is not None for source in (self.rows, self.dataset_ref, self.input)) > 1:
            raise ValueError("rows come from one of rows, dataset_ref and input")
        if self.verify != "none" and (self.user or self.assistant or self.json_schema):
            raise ValueError("verify goes with neither json_schema nor user and assistant templates")
        if self.only_unsolved and self.verify not in {"executed", "gold"}:
            raise ValueError("only_unsolved needs a known answer, so verify must be executed or gold")
        return self


class Custom:
    config_model: ClassVar[type[GenerationConfig]] = CustomConfig
    similarity_limit: ClassVar[float] = 0.9
    same_numbers: ClassVar[bool] = True

    def __init__(self, config: CustomConfig, rows: RowFile | Sequence[Row] | None) -> None:
        """Raises Refused."""
        self._config = config
        self._rows = rows
        self._template = _compiled("template", config.template)
        self._user = None if config.user is None else _compiled("user", config.user)
        self._assistant = None if config.assistant is None else _compiled("assistant", config.assistant)
        self._schema = None if config.json_schema is None else validator_of("json_schema", config.json_schema)
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
        try:
            self._template.render(_names(self._row(0)))
        except TemplateFailed as error:
            raise Refused("template", f"fails on the first row: {error}") from error

    @classmethod
    def open(cls, config: CustomConfig, sources: Sources) -> Self:
        if config.dataset_ref is not None:
            return cls(config, RowFile.in_datasets(config.dataset_ref, sources.datasets_dir))
        if config.input is not None:
            return cls(config, RowFile("input", sources.file("input", config.input)))
        return cls(config, config.rows)

    @property
    def attempts(self) -> int | None:
        """One a row; without rows there is no end of it."""
        return None if self._rows is None else len(self._rows)

    async def attempt(self, number: int, ask: Asking) -> Outcome:
        row = self._row(number)
        source_id = "" if self._rows is None else str(row.get("id", number + 1))
        try:
            prompt = self._template.render(_names(row)).strip()
        except TemplateFailed as error:
            return Outcome(rejections=[Rejection("template_failed", {"row": source_id, "why": str(error)})])
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
            made = self._draft(prompt, row, item, output, source_id)
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
            value = row.get(self._config.answer_field)
            if not isinstance(value, str | int | float) or isinstance(value, bool):
                return Outcome(rejections=[Rejection("no_gold", {"row": source_id})])
            gold = str(value)
        return await self._solver.solve(prompt, ask, (number,), source_id=source_id, gold=gold, method=method)

    def _seeded(self, number: int, sample: int) -> BatchSampling:
        return self._sampling.model_copy(update={"seed": seed_of(self._config.seed, number, sample)})

    def _draft(self, prompt: str, row: Row, item: BatchItem, output: BatchOutput, source_id: str) -> Draft | Rejection:
        if output.error is not None:
            return Rejection("engine_error", {"row": source_id, "why": output.error[:200]})
        answer: Any = output.text.strip()
        if self._schema is not None:
            try:
                answer = json.loads(output.text)
            except ValueError:
                return Rejection("truncated" if output.finish_reason == "length" else "not_json", {"row": source_id})
            if (wrong := next(self._schema.iter_errors(answer), None)) is not None:
                return Rejection("schema", {"row": source_id, "why": wrong.message[:200]})
        names = {**_names(row), "output": answer}
        try:
            asked = prompt if self._user is None else self._user.render(names).strip()
            said = output.text.strip() if self._assistant is None else self._assistant.render(names).strip()
        except TemplateFailed as error:
            return Rejection("template_failed", {"row": source_id, "why": str(error)})
        assert item.sampling is not None
        opening = () if self._config.system_prompt is None else (Turn("system", self._config.system_prompt),)
        return Draft(
            turns=(*opening, Turn("user", asked), Turn("assistant", said)),
            source_id=source_id,
            prompt_sha=prompt_sha(item),
            sampling=item.sampling,
            finish_reason=output.finish_reason,
            verify_method="none" if self._schema is None else "schema",
            verify_score=0.0 if self._schema is None else 1.0,
        )


def _names(row: Row) -> dict[str, Any]:
    """A row's fields by their names, and all of them as `row`."""
    return {**row, "row": row}


def _compiled(field: str, text: str) -> PromptTemplate:
    try:
        return PromptTemplate(text)
    except TemplateFailed as error:
        raise Refused(field, str(error)) from error
