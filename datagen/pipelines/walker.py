"""A row of a pipeline: all its columns, one after the other, until one of them has nothing to give."""

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from datagen.arithmetic import exact_answer
from datagen.asking import Asking
from datagen.config import GenerationConfig
from datagen.errors import Refused
from datagen.judge_config import Judging
from datagen.judging import Judge
from datagen.pipelines.columns import (
    EachColumn,
    ExpressionColumn,
    JudgeColumn,
    Placed,
    PromptColumn,
    RowsColumn,
    VerifierColumn,
)
from datagen.pipelines.plan import Plan
from datagen.pipelines.samplers import Sampler
from datagen.records import Rejection, sha_of
from datagen.rendering import Rendering, tried
from datagen.rows import Row, RowFile
from datagen.solving import chat, seed_of
from datagen.strategy import Sources
from datagen.verifier import (
    JUDGE,
    Candidate,
    Verifier,
    opened_verifier,
    verdict_of,
    verifier_class,
    verifier_config,
)
from stepserve.contract import BatchItem, BatchOutput, BatchSampling

_SHOWN = 200


@dataclass(slots=True)
class Walk:
    """What became of one row, or of one `item` of a row that is split (by its place in the list). `rejection`: why it
    ended early; `verified`: columns that had to pass and did, with their scores; `asked`: by prompt column.
    """

    item: int | None = None
    values: dict[str, Any] = field(default_factory=dict)
    rejection: Rejection | None = None
    verified: list[tuple[str, float]] = field(default_factory=list)
    asked: dict[str, tuple[BatchItem, BatchOutput]] = field(default_factory=dict)

    def split(self, item: int, name: str, value: Any) -> "Walk":
        """This far, and from here on with the item."""
        return Walk(item, self.values | {name: value}, None, [*self.verified], dict(self.asked))


class _Dropped(Exception):
    def __init__(self, reason: str, **detail: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class Walker:
    """As a context for the time of a run: it holds the process that fills the templates, and the verifiers."""

    def __init__(self, plan: Plan, config: GenerationConfig, sources: Sources) -> None:
        """Reads the rows and tries the templates that need nothing else. Blocks; raises Refused."""
        self._plan = plan
        self._config = config
        self._rows = {each.name: _rows(each, sources) for each in plan.columns if isinstance(each.column, RowsColumn)}
        self._checks = {each.name: check for each in plan.columns if (check := _check(each, sources)) is not None}
        self._rendering = Rendering(plan.templates, plan.schemas, limit_s=sources.render_limit_s)
        self._verify_limit_s = sources.verify_limit_s
        self._stack = AsyncExitStack()
        self.digest = sha_of(
            [rows.digest if isinstance(rows, RowFile) else sha_of(rows) for rows in self._rows.values()]
        )
        if sources.new:
            drawn = {each.name: self._drawn(each, 0) for each in plan.columns if self._is_drawn(each)}
            names = [place for place, read in plan.reads.items() if drawn.keys() >= set(read)]
            tried(plan.templates, plan.schemas, drawn, names, sources.render_limit_s)

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._rendering)
        for check in self._checks.values():
            if isinstance(check, AbstractAsyncContextManager):
                await self._stack.enter_async_context(check)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def models(self) -> dict[str, str]:
        """Besides the job's own, with the field of the config that names each."""
        theirs = {
            model: each.place for each in self._plan.columns if each.name in self._checks
            for model in self._checks[each.name].models
        }  # fmt: skip
        return theirs | self._plan.models

    @property
    def rows(self) -> dict[str, int]:
        """How many each column of rows has."""
        return {name: len(rows) for name, rows in self._rows.items()}

    @property
    def ends_after(self) -> int | None:
        """How many rows there are: of the columns whose rows are taken in turn, the fewest. None: no column ends it."""
        in_turn = [
            len(self._rows[each.name])
            for each in self._plan.columns
            if isinstance(each.column, RowsColumn) and each.column.order == "in_turn"
        ]
        return min(in_turn, default=None)

    def source_id(self, walk: Walk, number: int) -> str:
        """Of the first column of rows."""
        for name in self._rows:
            row = walk.values.get(name)
            return str(row.get("id", number + 1)) if isinstance(row, Mapping) else ""
        return ""

    async def walk(self, number: int, ask: Asking) -> list[Walk]:
        """The row with that number, from 0; where it is split its items, and one more walk for what was left out.

        Draws depend on the seed, the number, the column's name and the item alone.
        """
        row = Walk()
        await self._go(row, self._plan.once, number, ask)
        split = self._plan.split
        if split is None or row.rejection is not None:
            return [row]
        assert isinstance(split.column, EachColumn)
        try:
            items = _items(row.values, split.column)
        except _Dropped as dropped:
            row.rejection = Rejection(dropped.reason, {"column": split.name, **dropped.detail})
            return [row]
        walks = [row.split(item, split.name, value) for item, value in enumerate(items[: split.column.most])]
        try:
            async with asyncio.TaskGroup() as group:
                for walk in walks:
                    group.create_task(self._go(walk, self._plan.of_items, number, ask))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        if (left_out := len(items) - len(walks)) > 0:
            row.rejection = Rejection("too_many_items", {"column": split.name, "why": f"{left_out} of {len(items)}"})
            walks.append(row)
        return walks

    async def _go(self, walk: Walk, columns: Sequence[Placed], number: int, ask: Asking) -> None:
        for each in columns:
            try:
                walk.values[each.name] = await self._value(each, walk, number, ask)
            except _Dropped as dropped:
                walk.rejection = Rejection(dropped.reason, {"column": each.name, **dropped.detail})
                return

    async def filled(self, places: Sequence[str], values: Mapping[str, Any], number: int) -> list[str] | Rejection:
        """The templates at these places of the config, without white space at their ends."""
        row = {name: values[name] for place in places for name in self._plan.reads[place]}
        what = f"config.{places[0]}: attempt {number + 1}"
        made = await self._rendering.answer({"row": row, "texts": list(places)}, what)
        if "failed" in made:
            return Rejection("template_failed", {"why": f"{' and '.join(places)}: {made['failed']}"})
        return [str(text).strip() for text in made["texts"]]

    async def _texts(self, each: Placed, fields: Sequence[str], walk: Walk, number: int) -> list[str]:
        made = await self.filled([f"{each.place}.{name}" for name in fields], walk.values, number)
        if isinstance(made, Rejection):
            raise _Dropped(made.reason, **made.detail)
        return made

    async def _value(self, each: Placed, walk: Walk, number: int, ask: Asking) -> Any:
        match each.column:
            case ExpressionColumn():
                return await self._expressed(each, each.column, walk, number)
            case PromptColumn():
                return await self._prompted(each, each.column, walk, number, ask)
            case VerifierColumn() | JudgeColumn():
                return await self._verified(each, each.column, walk, number, ask)
        return self._drawn(each, number)

    def _is_drawn(self, each: Placed) -> bool:
        return isinstance(each.column, RowsColumn | Sampler)

    def _drawn(self, each: Placed, number: int) -> Any:
        column = each.column
        chance = random.Random(seed_of(self._config.seed, number, each.name))  # noqa: S311  # no secret
        if isinstance(column, RowsColumn):
            rows = self._rows[each.name]
            return rows[number if column.order == "in_turn" else chance.randrange(len(rows))]
        assert isinstance(column, Sampler)
        return column.draw(chance)

    async def _expressed(self, each: Placed, column: ExpressionColumn, walk: Walk, number: int) -> Any:
        (text,) = await self._texts(each, ["template"], walk, number)
        match column.result:
            case "text":
                return text
            case "arithmetic":
                value = exact_answer(text)
                if value is None:
                    raise _Dropped("not_executable", question=text[:_SHOWN])
                return value
            case "json":
                try:
                    return json.loads(text)
                except (ValueError, RecursionError) as error:
                    raise _Dropped("not_json", why=str(error)[:_SHOWN]) from error

    async def _prompted(self, each: Placed, column: PromptColumn, walk: Walk, number: int, ask: Asking) -> Any:
        prompt, *own = await self._texts(each, list(column.templates), walk, number)
        item = chat(
            prompt, self._sampling(each, column, number, walk.item), own[0] if own else self._config.system_prompt
        )
        (output,) = await ask([item]) if column.model is None else await ask.model(column.model, [item])
        walk.asked[each.name] = (item, output)
        if output.error is not None:
            raise _Dropped("engine_error", question=prompt[:_SHOWN], why=output.error[:_SHOWN])
        if output.finish_reason == "length":
            raise _Dropped("truncated", question=prompt[:_SHOWN])
        if column.json_schema is None:
            return output.text.strip()
        task = {"row": {}, "texts": [], "said": output.text, "schema": each.name}
        made = await self._rendering.answer(task, f"config.{each.place}: attempt {number + 1}")
        if "rejected" in made:
            reason, why = made["rejected"]
            raise _Dropped(reason, question=prompt[:_SHOWN], why=why)
        if "failed" in made:
            raise _Dropped("template_failed", why=made["failed"])
        return json.loads(output.text)

    def _sampling(self, each: Placed, column: PromptColumn, number: int, item: int | None) -> BatchSampling:
        temperature = self._config.temperature if column.temperature is None else column.temperature
        return BatchSampling(
            temperature=0.7 if temperature is None else temperature,
            top_p=column.top_p or self._config.top_p or 1.0,
            max_tokens=column.max_tokens or self._config.max_tokens or 512,
            json_schema=column.json_schema,
            seed=seed_of(self._config.seed, number, each.name, *(() if item is None else (item,))),
        )

    async def _verified(
        self, each: Placed, column: VerifierColumn | JudgeColumn, walk: Walk, number: int, ask: Asking
    ) -> dict[str, Any]:
        texts = dict(zip(column.templates, await self._texts(each, list(column.templates), walk, number), strict=True))
        row = {name: walk.values[name] for name in self._plan.needs[each.name]}
        candidate = Candidate(texts.get("question", ""), texts["answer"], row=row)
        name = column.verifier if isinstance(column, VerifierColumn) else JUDGE
        verdict = await verdict_of(name, self._checks[each.name], candidate, ask, self._verify_limit_s)
        if column.required:
            if not verdict.passed:
                shown = {"question": candidate.question[:_SHOWN], "answer": candidate.reply[:_SHOWN]}
                raise _Dropped(verdict.reason, **shown, verifier=each.name, why=verdict.why)
            walk.verified.append((each.name, verdict.score))
        return {"passed": verdict.passed, "score": verdict.score, "why": verdict.why}


def _rows(each: Placed, sources: Sources) -> RowFile | Sequence[Row]:
    assert isinstance(each.column, RowsColumn)
    try:
        rows = each.column.opened_rows(sources)
    except Refused as error:
        raise Refused(f"{each.place}.{error.field}", error.reason) from error
    if rows is None:
        raise Refused(each.place, "needs one of rows, dataset_ref and input")
    return rows


def _items(values: Mapping[str, Any], column: EachColumn) -> list[Any]:
    """Not empty. Raises _Dropped."""
    found: Any = values
    for name in column.path:
        if not isinstance(found, Mapping) or name not in found:
            raise _Dropped("no_list", why=f"{column.of}: there is no {name[:_SHOWN]}")
        found = found[name]
    if not isinstance(found, list):
        raise _Dropped("no_list", why=f"{column.of} is not a list but {str(found)[:_SHOWN]!r}")
    if not found:
        raise _Dropped("empty_list", why=column.of)
    return found


def _check(each: Placed, sources: Sources) -> Verifier | Judge | None:
    column = each.column
    if isinstance(column, JudgeColumn):
        if column.prompt is not None and column.rubric:
            raise Refused(f"{each.place}.rubric", "does not go together with prompt: write the rubric into the prompt")
        return Judge(Judging(**column.model_dump(include={"min_score", "rubric", "prompt", "model"})), ())
    if not isinstance(column, VerifierColumn):
        return None
    named, place = verifier_class(column.verifier, f"{each.place}.verifier"), f"{each.place}.settings"
    return opened_verifier(named, verifier_config(named, column.settings, place), place, sources)
