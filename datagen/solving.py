"""Asking a model the same question several times, and keeping what can be believed.

An answer is believed when it is the known one (`gold`: a scorer and a reference; `executed`: worked out here), or when
enough of the solutions agree (self-consistency, Wang et al. 2023) and a second prompt, which sees none of them, comes
to the same.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from datagen.answers import final_answer, is_right, is_right_sum, same_answer
from datagen.arithmetic import exact_answer
from datagen.asking import Asking
from datagen.records import Draft, Outcome, Rejection, Turn, prompt_sha
from stepserve.contract import BatchItem, BatchOutput, BatchSampling, ChatMessage

SECOND_PROMPT = (
    "Work the following problem out step by step, check your result in another way, and then write the final answer"
    " alone on the last line.\n\n{question}"
)
_SEED_BITS = 53  # what every JSON reader takes exactly

Method = Literal["any", "gold", "executed", "majority"]


@dataclass(frozen=True, slots=True)
class SolvePlan:
    """`samples` solutions a question, at most `keep` of them kept; `majority` is the share that has to agree."""

    sampling: BatchSampling
    system_prompt: str | None = None
    samples: int = 8
    keep: int = 4
    majority: float = 0.6
    only_unsolved: bool = False


def seed_of(seed: int, *place: object) -> int:
    """A seed of its own for each place in a run."""
    digest = hashlib.sha256(repr((seed, *place)).encode()).digest()
    return int.from_bytes(digest[:8]) >> (64 - _SEED_BITS)


def chat(prompt: str, sampling: BatchSampling, system_prompt: str | None = None) -> BatchItem:
    turns = [ChatMessage(role="user", content=prompt)]
    if system_prompt is not None:
        turns.insert(0, ChatMessage(role="system", content=system_prompt))
    return BatchItem(messages=turns, sampling=sampling)


def greedy(sampling: BatchSampling) -> BatchSampling:
    return sampling.model_copy(update={"temperature": 0.0, "top_p": 1.0, "top_k": 0, "seed": None})


class Solver:
    def __init__(self, plan: SolvePlan, seed: int) -> None:
        self._plan = plan
        self._seed = seed

    async def solve(
        self,
        question: str,
        ask: Asking,
        place: tuple[object, ...],
        *,
        source_id: str,
        gold: str | None = None,
        method: Method = "any",
        tags: tuple[str, ...] = (),
        only_unsolved: bool | None = None,
        row: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """Drafts of believed solutions, or the one reason why there are none. `place` decides the seeds.

        `method`: any is the best that there is. `row`: for verifiers.
        """
        outcome = await self._solved(question, ask, place, source_id, gold, method, tags, only_unsolved)
        if row is None:
            return outcome
        return replace(outcome, drafts=[replace(draft, row=row) for draft in outcome.drafts])

    async def _solved(
        self,
        question: str,
        ask: Asking,
        place: tuple[object, ...],
        source_id: str,
        gold: str | None,
        method: Method,
        tags: tuple[str, ...],
        only_unsolved: bool | None,
    ) -> Outcome:
        executed = gold is None and method in {"any", "executed"}
        if executed:
            gold = exact_answer(question)
        if gold is None and method == "executed":
            return _nothing("not_executable", question, verifier="executed")
        check = is_right_sum if executed else is_right
        unsolved = self._plan.only_unsolved if only_unsolved is None else only_unsolved
        if unsolved and gold is not None:
            (first,) = await ask.student([chat(question, greedy(self._plan.sampling), self._plan.system_prompt)])
            if first.error is None and check(first.text, gold):
                return _nothing("already_solved", question)
        items = [self._item(question, place, number) for number in range(self._plan.samples)]
        outputs = await ask(items)
        answered, reason = _readable(items, outputs)
        if not answered:
            return _nothing(reason, question)
        if gold is not None:
            right = [(item, output) for item, output in answered if check(output.text, gold)]
            named = "executed" if executed else "gold"
            if not right:
                return _nothing("no_right_solution", question, verifier=named, gold=gold)
            return self._kept(question, right, source_id, named, len(right) / len(items), gold, tags)
        return await self._agreed(question, ask, answered, len(items), source_id, tags)

    async def _agreed(
        self,
        question: str,
        ask: Asking,
        answered: Sequence[tuple[BatchItem, BatchOutput]],
        asked: int,
        source_id: str,
        tags: tuple[str, ...],
    ) -> Outcome:
        camps: list[tuple[str, list[tuple[BatchItem, BatchOutput]]]] = []
        for pair in answered:
            answer = final_answer(pair[1].text)
            assert answer is not None
            camp = next((members for name, members in camps if same_answer(name, answer)), None)
            if camp is None:
                camps.append((answer, [pair]))
            else:
                camp.append(pair)
        answer, members = max(camps, key=lambda camp: len(camp[1]))
        share = len(members) / asked
        if share < self._plan.majority:
            return _nothing("no_majority", question, verifier="majority", share=f"{share:.2f}")
        second = chat(SECOND_PROMPT.format(question=question), greedy(self._plan.sampling), self._plan.system_prompt)
        (opinion,) = await ask([second])
        if opinion.error is not None or not is_right(opinion.text, answer):
            return _nothing("second_opinion_differs", question, verifier="majority", majority=answer)
        return self._kept(question, members, source_id, "majority", share, answer, tags)

    def _kept(
        self,
        question: str,
        solutions: Sequence[tuple[BatchItem, BatchOutput]],
        source_id: str,
        method: str,
        score: float,
        answer: str,
        tags: tuple[str, ...],
    ) -> Outcome:
        distinct: dict[str, Draft] = {}
        for item, output in solutions:
            assert item.sampling is not None
            draft = Draft(
                turns=(*self._opening(question), Turn("assistant", output.text.strip())),
                source_id=source_id,
                prompt_sha=prompt_sha(item),
                sampling=item.sampling,
                finish_reason=output.finish_reason,
                verify_method=method,
                verify_score=score,
                answer=answer,
                tags=tags,
            )
            distinct.setdefault(" ".join(draft.reply.split()).casefold(), draft)
        return Outcome(drafts=list(distinct.values())[: self._plan.keep])

    def _opening(self, question: str) -> tuple[Turn, ...]:
        asked = Turn("user", question)
        return (asked,) if self._plan.system_prompt is None else (Turn("system", self._plan.system_prompt), asked)

    def _item(self, question: str, place: tuple[object, ...], number: int) -> BatchItem:
        seeded = self._plan.sampling.model_copy(update={"seed": seed_of(self._seed, *place, number)})
        return chat(question, seeded, self._plan.system_prompt)


def _readable(
    items: Sequence[BatchItem], outputs: Sequence[BatchOutput]
) -> tuple[list[tuple[BatchItem, BatchOutput]], str]:
    """What has an end and an answer in it; the reason is why nothing has."""
    pairs = list(zip(items, outputs, strict=True))
    there = [pair for pair in pairs if pair[1].error is None]
    ended = [pair for pair in there if pair[1].finish_reason != "length"]
    parsed = [pair for pair in ended if final_answer(pair[1].text) is not None]
    return parsed, "engine_error" if not there else "truncated" if not ended else "unparsed"


def _nothing(reason: str, question: str, **detail: str) -> Outcome:
    return Outcome(rejections=[Rejection(reason, {"question": question[:200], **detail})])
