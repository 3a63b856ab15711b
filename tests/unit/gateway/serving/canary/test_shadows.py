"""A shadow is asked what the active model was asked, and nobody gets its answer."""

import asyncio
from typing import Any

import pytest

from gateway.access.meter import METER, Meter
from gateway.serving.canary.losses import CHAT, COMPLETIONS, Scorer, answered_text
from gateway.serving.canary.shadow import AT_ONCE, Shadows
from stepserve.contract import (
    AskRequest,
    AskResult,
    Continuations,
)
from tests.eventually import eventually
from tests.unit.gateway.fakes import model
from tests.unit.gateway.serving.canary.canary_setup import SAYS_OLD, CanarySetup, canary_scenario, order, settled


@canary_scenario
async def test_a_shadow_is_asked_the_same_and_nobody_gets_its_answer(here: CanarySetup) -> None:
    asked = order(share=1.0, shadow=True)
    here.canary.order(asked)
    here.engine("old").says = SAYS_OLD
    seen = here.shadow("four", "five")
    METER.set(meter := Meter())
    for number in (1, 2):
        assert await here.ask(number) == "old"
        assert here.said == SAYS_OLD
        report = await settled(here, asked, number)
    assert (report.compared, report.same, report.candidate.requests, report.active.requests) == (2, 1, 2, 2)
    assert report.candidate.tokens == pytest.approx(5)
    assert [(one.model, one.digest, one.items[0].body["prompt"]) for one in seen] == [
        ("new", "sha256:new", "1"), ("new", "sha256:new", "2"),
    ]  # fmt: skip
    assert meter.completion_tokens == 0
    METER.set(None)


@canary_scenario
async def test_a_shadow_compares_what_both_models_make_of_the_answer_that_was_given(here: CanarySetup) -> None:
    asked = order(share=1.0, shadow=True)
    here.canary.order(asked)
    here.engine("old").says = b'{"choices": [{"text": "four or so"}]}'
    here.engine("old").nats, here.engine("new").nats = 0.25, 0.75
    here.shadow("five")
    assert await here.ask(1) == "old"
    await eventually(lambda: here.canary.order(asked).active.loss is not None)
    report = here.canary.order(asked)
    assert (report.candidate.loss, report.active.loss) == (0.75, 0.25)
    await here.harness.pool.unload("new", forced=True)
    text = Continuations(prompt="1", texts=["four"])
    assert await Scorer(here.harness.router)(model("new"), text) is None, "it loads nothing"


CHAT_ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "2+2?"}]}
SAID = {"choices": [{"message": {"role": "assistant", "content": "four"}}]}


@pytest.mark.parametrize(
    ("path", "asked", "answer", "scored"),
    [
        (CHAT, CHAT_ASKED, SAID, True),
        (CHAT, {**CHAT_ASKED, "tools": [{}]}, SAID, False),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "2+2?"}]}]}, SAID, False),
        (CHAT, CHAT_ASKED, {"choices": [{"message": {"content": "four", "reasoning": "2 and 2"}}]}, False),
        (CHAT, CHAT_ASKED, {"choices": [{"message": {"content": None, "tool_calls": [{}]}}]}, False),
        (CHAT, CHAT_ASKED, {"choices": [*SAID["choices"], *SAID["choices"]]}, False),
        (COMPLETIONS, {"prompt": "2+2="}, {"choices": [{"text": "4"}]}, True),
        (COMPLETIONS, {"prompt": "2+2="}, {"choices": [{"text": ""}]}, False),
        (COMPLETIONS, {"prompt": [17, 10]}, {"choices": [{"text": "4"}]}, False),
        (COMPLETIONS, {"prompt": "2+2=", "echo": True}, {"choices": [{"text": "2+2=4"}]}, False),
        (COMPLETIONS, {"prompt": "2+2="}, None, False),
    ],
)
def test_losses_are_those_of_plain_texts_after_plain_prompts(
    path: str, asked: dict[str, Any], answer: Any, scored: bool
) -> None:
    assert (answered_text(path, asked, answer) is not None) == scored


@canary_scenario
async def test_a_shadow_that_fails_is_a_breach_that_nobody_noticed(here: CanarySetup) -> None:
    asked = order(share=1.0, shadow=True)
    here.canary.order(asked)
    here.engine("old").says = SAYS_OLD
    seen = here.shadow(status=500)
    for number in range(20):
        assert await here.ask(number) == "old"
        for _ in range(5):
            await asyncio.sleep(0)
    report = here.canary.order(asked)
    assert (report.state, report.active.errors) == ("breached", 0)
    assert len(seen) == report.candidate.errors < 5


@canary_scenario
async def test_shadows_never_pile_up_and_streams_have_none(here: CanarySetup) -> None:
    asked = order(share=1.0, shadow=True)
    here.canary.order(asked)
    here.engine("old").says = SAYS_OLD
    hold, begun = asyncio.Event(), 0

    async def ask(_: AskRequest) -> AskResult:
        nonlocal begun
        begun += 1
        await hold.wait()
        raise AssertionError("it was to wait")

    here.canary.shadows = Shadows(ask)
    for number in range(3 * AT_ONCE):
        assert await here.ask(number) == "old"
        await asyncio.sleep(0)
    assert begun == AT_ONCE
    here.shadow()
    here.engine("old").content_type = b"text/event-stream; charset=utf-8"
    assert await here.ask(1) == "old"
    assert here.canary.order(asked).compared == 0
