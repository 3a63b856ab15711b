"""best_of_n: several answers to each prompt, ranked by what verifies them: the best is kept, or all as preferences.

As `messages` (or `alpaca`, `sharegpt`) that is rejection sampling; as `dpo`, `kto` and `ranked` it is preference data.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from datagen.answers import is_right, is_right_sum
from datagen.arithmetic import exact_answer
from datagen.asking import Asking
from datagen.config import GenerationConfig
from datagen.records import PREFERENCES, Alternative, Draft, Outcome, Rejection, Turn, prompt_sha, sha_of
from datagen.rendering import Rendering, tried
from datagen.row_config import RowConfig
from datagen.rows import Row, RowFile
from datagen.solving import chat, seed_of
from datagen.strategy import Sources
from datagen.verification import Verification
from stepserve.contract import BatchItem, BatchOutput, BatchSampling


class BestOfNConfig(RowConfig):
    """`n` answers are asked for each row.

    verify: `executed`: the question is arithmetic and is worked out here; `gold`: the row's `answer_field` is the
    answer; `none`: `verifiers` or `judge` decide alone. A pair needs scores that are at least `min_margin` apart.
    """

    preferences: ClassVar[bool] = True

    n: Annotated[int, Field(ge=2, le=64)] = 8
    verify: Literal["none", "executed", "gold"] = "none"
    min_margin: Annotated[float, Field(gt=0, le=1)] = 0.01

    @model_validator(mode="after")
    def _something_ranks(self) -> Self:
        if self.verify == "none" and not self.verifiers and self.judge is None:
            raise ValueError("best_of_n needs something to rank by: verify, verifiers or judge")
        return self


@dataclass(frozen=True, slots=True)
class _Ranked:
    draft: Draft
    score: float
    rejection: Rejection | None


class BestOfN:
    """As a context for the time of a run: it holds the process that fills its template."""

    config_model: ClassVar[type[GenerationConfig]] = BestOfNConfig
    similarity_limit: ClassVar[float] = 0.9
    same_numbers: ClassVar[bool] = True

    def __init__(self, config: BestOfNConfig, rows: RowFile | Sequence[Row] | None, sources: Sources) -> None:
        """Raises Refused."""
        self._config = config
        self._rows = rows
        self._verification: Verification | None = None
        templates = {"template": config.template}
        self._rendering = Rendering(templates, {}, limit_s=sources.render_limit_s)
        self._sampling = BatchSampling(
            temperature=1.0 if config.temperature is None else config.temperature,
            top_p=config.top_p or 1.0,
            max_tokens=config.max_tokens or 512,
        )
        self.digest = rows.digest if isinstance(rows, RowFile) else sha_of(rows)
        if sources.new:
            tried(templates, {}, self._row(0), ["template"], sources.render_limit_s)

    async def __aenter__(self) -> Self:
        await self._rendering.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._rendering.__aexit__(kind, error, trace)

    @classmethod
    def open(cls, config: BestOfNConfig, sources: Sources) -> Self:
        return cls(config, config.opened_rows(sources), sources)

    def ranks_by(self, verification: Verification, /) -> None:
        self._verification = verification

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
            return _nothing("template_failed", row=source_id, why=filled["failed"])
        prompt = filled["texts"][0].strip()
        gold = None
        if self._config.verify != "none":
            executed = self._config.verify == "executed"
            gold = exact_answer(prompt) if executed else self._config.known_answer(row)
            if gold is None:
                reason = "not_executable" if executed else "no_gold"
                return _nothing(reason, question=prompt[:200], row=source_id, verifier=self._config.verify)
        items = [self._item(prompt, number, sample) for sample in range(self._config.n)]
        drafts = self._drafts(prompt, row, source_id, items, await ask(items))
        if not drafts:
            return _nothing("truncated", question=prompt[:200], row=source_id)
        ranked = await asyncio.gather(*(self._ranked(draft, gold, ask) for draft in drafts))
        return self._outcome(prompt, sorted(ranked, key=lambda one: (one.rejection is not None, -one.score)))

    def learn(self, _question: str, _tags: Sequence[str]) -> None:
        pass

    def spares(self) -> frozenset[str]:
        return frozenset()

    def facts(self) -> dict[str, Any]:
        return {"n": self._config.n} if self._rows is None else {"n": self._config.n, "rows": len(self._rows)}

    def _row(self, number: int) -> Row:
        return {} if self._rows is None else self._rows[number]

    def _item(self, prompt: str, number: int, sample: int) -> BatchItem:
        seeded = self._sampling.model_copy(update={"seed": seed_of(self._config.seed, number, sample)})
        return chat(prompt, seeded, self._config.system_prompt)

    def _drafts(
        self, prompt: str, row: Row, source_id: str, items: Sequence[BatchItem], outputs: Sequence[BatchOutput]
    ) -> list[Draft]:
        """Different answers that came to their end: one that was cut off is no worse answer, but none."""
        opening = () if self._config.system_prompt is None else (Turn("system", self._config.system_prompt),)
        found: dict[str, Draft] = {}
        for item, output in zip(items, outputs, strict=True):
            said = output.text.strip()
            if output.error is not None or output.finish_reason == "length" or not said:
                continue
            assert item.sampling is not None
            draft = Draft(
                turns=(*opening, Turn("user", prompt), Turn("assistant", said)),
                source_id=source_id,
                prompt_sha=prompt_sha(item),
                sampling=item.sampling,
                finish_reason=output.finish_reason,
                row=row,
            )
            found.setdefault(" ".join(said.split()).casefold(), draft)
        return list(found.values())

    async def _ranked(self, draft: Draft, gold: str | None, ask: Asking) -> _Ranked:
        """By the known answer first: what that refutes, nobody else is asked about."""
        if gold is not None:
            method = self._config.verify
            if not (is_right_sum if method == "executed" else is_right)(draft.reply, gold):
                detail = {"question": draft.question[:200], "verifier": method, "gold": gold}
                return _Ranked(draft, 0.0, Rejection("no_right_solution", detail))
            draft = replace(draft, verify_method=method, verify_score=1.0, answer=gold)
        assert self._verification is not None
        if self._verification.is_empty:
            return _Ranked(draft, 1.0, None)
        verified = await self._verification.verified(draft, ask)
        return _Ranked(verified.draft, verified.score, verified.rejection)

    def _outcome(self, prompt: str, ranked: Sequence[_Ranked]) -> Outcome:
        """`ranked`: the best first."""
        best, *others = ranked
        if best.rejection is not None:
            return Outcome(rejections=[best.rejection])
        if self._config.format in PREFERENCES and not self._has_contrast(ranked):
            why = f"{len(ranked)} different answers, none of them worse by {self._config.min_margin:g}"
            return _nothing("no_contrast", question=prompt[:200], why=why)
        alternatives = tuple(Alternative(one.draft.reply, round(one.score, 4), one.rejection is None) for one in others)
        return Outcome([replace(best.draft, score=round(best.score, 4), alternatives=alternatives)])

    def _has_contrast(self, ranked: Sequence[_Ranked]) -> bool:
        return ranked[0].score - ranked[-1].score >= self._config.min_margin


def _nothing(reason: str, **detail: str) -> Outcome:
    return Outcome(rejections=[Rejection(reason, detail)])
