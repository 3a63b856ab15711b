"""The judge of a canary: what it reads, and that nothing which befalls it befalls the canary."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from control.errors import GatewayUnavailable, ModelNotServed, NoRoom, ServiceError
from control.promotion.canary import CanaryBoard, reason_of, run_canary
from control.promotion.canary_request import CanaryRequest
from stepserve.canary import (
    CanaryAnswer,
    CanaryAnswers,
    CanaryArm,
    CanaryJudged,
    CanaryOrder,
    CanaryReport,
    CanaryVerdicts,
)
from stepserve.contract import AskRequest, AskResult, BatchOutput, BatchRequest, BatchResult, ModelRef

CANDIDATE = ModelRef(id="new", path="", digest="sha256:new")
ARM = CanaryArm(requests=30, errors=0, latency_s=0.1, tokens=5)
JUDGED = {"judge": {"model": "wise", "rubric": ["is polite {{target}}"]}}


class Stage:
    """A gateway whose canary passes once `told` has all that is waited for, and the engine that its judge runs on."""

    def __init__(self, answers: list[str], enough: Callable[["Stage"], bool]) -> None:
        self.waiting = [CanaryAnswer(number=n, question=f"ask {n}", answer=text) for n, text in enumerate(answers, 1)]
        self.enough = enough
        self.told: list[CanaryVerdicts] = []
        self.orders: list[CanaryOrder] = []
        self.loaded: list[str] = []
        self.prompts: list[str] = []
        self.on_load: list[Exception] = []
        self.on_ask: list[Exception] = []
        self.on_answers: list[Exception] = []

    async def canary(self, order: CanaryOrder) -> CanaryReport:
        self.orders.append(order)
        state: Any = "passed" if self.enough(self) else "running"
        return CanaryReport(id=order.id, state=state, reason=None, elapsed_s=1, candidate=ARM, active=ARM)

    async def end_canary(self, canary_id: str) -> None:
        pass

    async def canary_answers(self, canary_id: str, said: CanaryVerdicts) -> CanaryAnswers:
        if self.on_answers:
            raise self.on_answers.pop()
        self.told.append(said)
        found, self.waiting = self.waiting[: said.wanted], self.waiting[said.wanted :]
        if said.wanted and not found:
            await asyncio.Event().wait()
        return CanaryAnswers(answers=found)

    async def load_beside(self, model_id: str) -> None:
        self.loaded.append(model_id)
        if model_id == "wise" and self.on_load:
            raise self.on_load.pop()

    async def generate(self, request: BatchRequest) -> BatchResult:
        """Repeats the answer that it is to judge."""
        if self.on_ask:
            raise self.on_ask.pop()
        assert (request.model, request.digest, request.sampling.temperature) == ("wise", None, 0)
        (item,) = request.items
        assert item.messages is not None
        self.prompts.append(item.messages[0].content)
        answer = self.prompts[-1].partition("Its answer:\n")[2].partition("\n")[0]
        output = BatchOutput(text="", error="it is too long") if answer == "long" else BatchOutput(text=answer)
        return BatchResult(model="wise", digest="", outputs=[output])

    async def ask(self, request: AskRequest) -> AskResult:
        raise AssertionError("a judge is asked for a text")

    @property
    def verdicts(self) -> dict[int, bool | None]:
        return {one.number: one.good for said in self.told for one in said.verdicts}

    @property
    def troubles(self) -> list[str]:
        return [said.trouble for said in self.told if said.trouble]

    async def run(self, folder: Path) -> dict[str, Any]:
        asked = CanaryRequest.model_validate(JUDGED)
        async with asyncio.timeout(240):
            return await run_canary(asked, "job", (CANDIDATE, "sha256:old"), folder, self, self, self, CanaryBoard())


def played(test: Callable[[Path], Coroutine[Any, Any, None]]) -> Callable[[Path], None]:
    def run(tmp_path: Path) -> None:
        asyncio.run(test(tmp_path))

    run.__name__ = str(getattr(test, "__name__", ""))
    return run


@played
async def test_each_answer_gets_its_verdict_or_none(folder: Path) -> None:
    here = Stage(["CORRECT", "INCORRECT", "well, hm", "long"], lambda one: len(one.verdicts) == 4)
    await here.run(folder)
    assert here.verdicts == {1: True, 2: False, 3: None, 4: None}
    assert here.troubles[-1] in {"judge: its reply has neither CORRECT nor INCORRECT", "judge: it is too long"}
    assert here.orders[0].judge is not None
    assert here.orders[0].judge.max_drop == 0.1
    prompt = here.prompts[0]
    assert "ask 1" in prompt
    assert "- is polite { {target}}" in prompt
    kept = "".join(file.read_text() for file in folder.rglob("*") if file.is_file())
    assert "ask 1" not in kept
    assert "well, hm" not in kept


@played
async def test_a_judge_without_room_is_waited_for_and_takes_no_answers_meanwhile(folder: Path) -> None:
    here = Stage(["CORRECT"], lambda one: bool(one.troubles))
    here.on_load = [NoRoom("2 models are loaded")]
    assert (await here.run(folder))["state"] == "passed"
    assert (here.troubles, here.told[0].wanted) == (["wise is not loaded: 2 models are loaded"], 0)
    assert len(here.waiting) == 1


@played
async def test_a_judge_that_left_is_loaded_again(folder: Path) -> None:
    here = Stage([*["CORRECT"] * 17], lambda one: len(one.verdicts) == 17)
    here.on_ask = [ModelNotServed("wise is gone")]
    await here.run(folder)
    assert list(here.verdicts.values()).count(None) == 1
    assert here.loaded.count("wise") == 2
    assert here.troubles == ["wise is not loaded any more"]
    assert here.told[-1].trouble is None, "it is over"


@played
async def test_a_gateway_that_is_away_for_a_moment_gets_the_verdicts_later(folder: Path) -> None:
    here = Stage(["CORRECT", "CORRECT"], lambda one: len(one.verdicts) == 2)
    here.on_answers = [GatewayUnavailable("it restarts"), ServiceError("it failed with 500")]
    await here.run(folder)
    assert here.verdicts == {1: True, 2: True}


@played
async def test_a_defect_in_judging_is_not_hidden(folder: Path) -> None:
    here = Stage(["CORRECT"], lambda one: not one.on_ask)
    here.on_ask = [ZeroDivisionError("a defect")]
    with pytest.raises(ZeroDivisionError):
        await here.run(folder)


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        ({}, "model"),
        ({"model": "wise", "url": "http://elsewhere/v1"}, "url: what people ask is not sent to another server"),
        ({"model": "wise", "template": "{{prediction}} {{target}}"}, r"\{\{target\}\} is none of question, prediction"),
        ({"model": "wise", "template": "{{question}}"}, "without {{prediction}} the judge does not see the answer"),
        ({"model": "wise", "template": "{{prediction}}", "rubric": ["polite"]}, "write the rubric into the template"),
        ({"model": "wise", "share": 0}, "share"),
        ({"model": "wise", "max_drop": 1}, "max_drop"),
        ({"model": "wise", "min_answers": 0}, "min_answers"),
        ({"model": "wise", "margin": 0.1}, "margin"),
    ],
)
def test_what_a_judge_cannot_be(judge: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        CanaryRequest.model_validate({"judge": judge})


def test_the_reason_says_what_the_judge_found() -> None:
    judged = CanaryJudged(pairs=40, candidate_good=0.9, active_good=0.95, unread=3, trouble=None)
    report = CanaryReport(id="job", state="passed", reason=None, elapsed_s=60, candidate=ARM, active=ARM, judge=judged)
    assert reason_of(report.model_dump(mode="json")) == (
        "the canary passed after 60 s: 30 requests to the candidate, 30 to the active model; the judge calls 0.900 of"
        " the candidate's, 0.950 of the active model's answers good, of 40 each, 3 answers got no verdict"
    )
