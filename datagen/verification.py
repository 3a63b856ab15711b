"""All verifiers of a run, one after the other: an answer has to pass every one."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from datagen.asking import Asking
from datagen.config import GenerationConfig
from datagen.judging import Judge
from datagen.records import Draft, Rejection
from datagen.strategy import Sources
from datagen.verifier import FIELD, JUDGE, Candidate, Verifier, verdict_of, verifier_of

BETWEEN = "+"


@dataclass(frozen=True, slots=True)
class Verified:
    """`score` ranks answers to one question: the mean of all verifiers', 0 for those that were not asked any more."""

    draft: Draft
    score: float
    rejection: Rejection | None


class Verification:
    """As a context for the time of a run. The judge, where there is one, comes last: it is the dearest."""

    def __init__(self, verifiers: Sequence[tuple[str, Verifier]], judge: Judge | None, limit_s: float) -> None:
        """`limit_s`: what an installed one may take to verify an answer."""
        self._verifiers = verifiers
        self._limit_s = limit_s
        self._judge = judge
        self._stack = AsyncExitStack()

    @classmethod
    def open(cls, config: GenerationConfig, sources: Sources) -> Self:
        """Blocks; raises Refused, ConfigRefused."""
        verifiers = [verifier_of(settings, number, sources) for number, settings in enumerate(config.verifiers)]
        judge = None if config.judge is None else Judge.open(config.judge, sources)
        return cls(verifiers, judge, sources.verify_limit_s)

    async def __aenter__(self) -> Self:
        for _, verifier in self._verifiers:
            if isinstance(verifier, AbstractAsyncContextManager):
                await self._stack.enter_async_context(verifier)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def models(self) -> dict[str, str]:
        """Those that are asked besides the job's own, and which field of the config names each."""
        judges = {} if self._judge is None else dict.fromkeys(self._judge.models, JUDGE)
        return judges | {model: FIELD for _, verifier in self._verifiers for model in verifier.models}

    @property
    def is_empty(self) -> bool:
        return not self._verifiers and self._judge is None

    async def calibrate(self, ask: Asking) -> dict[str, Any] | None:
        """As Judge.calibrate."""
        return None if self._judge is None else await self._judge.calibrate(ask)

    async def verified(self, draft: Draft, ask: Asking) -> "Verified":
        """The draft that says by whom it was verified, or the first objection.

        `verify_score` stays that of the strategy where it verified the draft itself; else it is the lowest score.
        """
        candidate = Candidate(draft.question, draft.reply, draft.answer, draft.row)
        names: list[str] = []
        scores: list[float] = []
        verifiers = self._all()
        for name, verifier in verifiers:
            verdict = await verdict_of(name, verifier, candidate, ask, self._limit_s)
            scores.append(verdict.score)
            if not verdict.passed:
                detail = {"question": draft.question[:200], "answer": draft.reply[:200], "verifier": name}
                rejection = Rejection(verdict.reason, detail | {"why": verdict.why})
                return Verified(draft, sum(scores) / len(verifiers), rejection)
            names.append(name)
        if not names:
            return Verified(draft, 1.0, None)
        if draft.verify_method == "none":
            draft = replace(draft, verify_method=BETWEEN.join(names), verify_score=min(scores))
        else:
            draft = replace(draft, verify_method=BETWEEN.join([draft.verify_method, *names]))
        return Verified(draft, sum(scores) / len(verifiers), None)

    def _all(self) -> list[tuple[str, Verifier | Judge]]:
        return [*self._verifiers, *([] if self._judge is None else [(JUDGE, self._judge)])]


@runtime_checkable
class Ranking(Protocol):
    """A strategy that has its answers verified itself, in order to compare them: nobody verifies its drafts again."""

    def ranks_by(self, verification: Verification, /) -> None:
        """Before the first attempt."""
        ...
