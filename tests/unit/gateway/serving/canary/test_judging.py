"""A judge reads answers of both models while a canary runs."""

import asyncio
import json

from gateway.traffic.judged import in_words
from stepserve.canary import (
    CanaryAnswer,
    CanaryJudged,
    CanaryOrder,
    CanaryVerdict,
    CanaryVerdicts,
)
from tests.unit.gateway.serving.canary.canary_setup import CanarySetup, canary_scenario, ended, order, settled

JUDGE = {"share": 1.0, "max_drop": 0.1, "min_answers": 3}


class Judge:
    """Reads as control does: fetches answers, and calls those good that have `good` in them; None: none is read."""

    def __init__(self, here: CanarySetup, asked: CanaryOrder) -> None:
        self.here, self.id = here, asked.id
        self.read: list[CanaryAnswer] = []
        self._verdicts: list[CanaryVerdict] = []

    def reads(self, wanted: int = 16, trouble: str | None = None) -> int:
        """How many answers it got; their verdicts come with the next look."""
        said = CanaryVerdicts(verdicts=self._verdicts, wanted=wanted, trouble=trouble)
        found = in_words(self.here.canary.answers(self.id, said)).answers
        self._verdicts = [CanaryVerdict(number=one.number, good="good" in one.answer) for one in found]
        self.read += found
        return len(found)


def says(text: str) -> bytes:
    return json.dumps({"choices": [{"text": text, "finish_reason": "stop"}]}).encode()


@canary_scenario
async def test_a_judge_reads_as_many_answers_of_each_and_ends_a_canary_whose_candidate_answers_badly(
    here: CanarySetup,
) -> None:
    asked = order(judge=JUDGE)
    here.canary.order(asked)
    here.engine("old").says, here.engine("new").says = says("a good one"), says("a poor one")
    judge = Judge(here, asked)
    number = 0
    while here.canary.order(asked).state == "running":
        number += 1
        await here.ask(number)
        judge.reads()
    report = here.canary.order(asked)
    assert report.judge is not None
    assert (report.judge.candidate_good, report.judge.active_good, report.judge.unread) == (0, 1, 0)
    assert report.judge.pairs < 15
    assert report.reason is not None
    assert report.reason.startswith(f"judge: 0 of its {report.judge.pairs} answers are good")
    assert await here.answered_by_new(range(1000, 1400)) == set()
    assert {one.question for one in judge.read} <= {str(asked) for asked in range(number + 1)}
    read = ["good" in one.answer for one in judge.read]
    assert abs(read.count(True) - read.count(False)) <= 1, "no more of the active model's than there are to compare"
    assert judge.reads() == 0, "it is over"


@canary_scenario
async def test_a_judge_waits_for_the_first_answer_and_is_told_of_it_at_once(here: CanarySetup) -> None:
    asked = order(share=1.0, judge=JUDGE)
    here.canary.order(asked)
    here.engine("new").says = says("a good one")
    judge = Judge(here, asked)
    assert judge.reads() == 0
    waiting = asyncio.create_task(here.canary.until_answers(asked.id))
    other = asyncio.create_task(here.canary.until_answers("another one"))
    await asyncio.sleep(0)
    assert not waiting.done()
    await here.ask(1)
    async with asyncio.timeout(240):
        await waiting
    assert (judge.reads(), other.done()) == (1, False)
    other.cancel()


@canary_scenario
async def test_a_judge_that_is_away_ends_nothing_and_shows_nothing(here: CanarySetup) -> None:
    asked = order(share=0.5, judge=JUDGE)
    here.canary.order(asked)
    here.engine("old").says, here.engine("new").says = says("a good one"), says("a poor one")
    judge = Judge(here, asked)
    for number in range(300):
        await here.ask(number)
    assert judge.reads(wanted=0, trouble="nobody is there") == 0
    report = here.canary.order(asked)
    assert report.judge == CanaryJudged(
        pairs=0, candidate_good=None, active_good=None, unread=0, trouble="nobody is there"
    )
    assert judge.reads(wanted=4) == 4
    another = Judge(here, asked)  # whoever had those four was killed
    assert another.reads(wanted=2, trouble="nobody is there") == 2
    report = here.canary.order(asked)
    assert report.judge is not None
    assert (report.judge.pairs, report.judge.unread, report.state) == (0, 4, "running")
    report = ended(here, asked)
    assert (report.state, report.reason) == (
        "undecided", "0 pairs of answers were judged; at least 3 (judge.min_answers) had to be (nobody is there)",
    )  # fmt: skip


@canary_scenario
async def test_a_judged_canary_passes_when_enough_of_its_answers_are_as_good(here: CanarySetup) -> None:
    asked = order(share=0.5, judge=JUDGE)
    here.canary.order(asked)
    here.engine("old").says = here.engine("new").says = says("a good one")
    judge = Judge(here, asked)
    for number in range(20):
        await here.ask(number)
        judge.reads()
    assert ended(here, asked).state == "passed"


@canary_scenario
async def test_streams_are_read_and_what_has_no_words_is_not(here: CanarySetup) -> None:
    asked = order(share=1.0, judge=JUDGE)
    here.canary.order(asked)
    engine, judge = here.engine("new"), Judge(here, asked)
    engine.says = b'data: {"choices": [{"text": "a "}]}\n\ndata: {"choices": [{"text": "stream"}]}\n\ndata: [DONE]\n\n'
    engine.content_type = b"text/event-stream"
    await here.ask(1)
    engine.content_type = b"application/json"
    for text in (
        says("  "),
        b'{"choices": [{"message": {"content": null, "tool_calls": [{}]}}]}',
        b"[1",
        b'{"choices": 1}',
    ):
        engine.says = text
        await here.ask(2)
    assert judge.reads() == 2
    assert [(one.question, one.answer) for one in judge.read] == [("1", "a stream"), ("2", "")]
    judge.reads()
    report = here.canary.order(asked)
    assert report.judge is not None
    assert report.judge.unread == 3


@canary_scenario
async def test_a_share_is_judged_and_no_more_waits_than_there_is_room_for(here: CanarySetup) -> None:
    here.engine("old").says, here.engine("new").says = says("a good one"), says("a poor one")
    for share, least, most in ((1.0, 64, 64), (0.1, 5, 40)):
        asked = order(share=0.5, judge={**JUDGE, "share": share})
        here.canary.order(asked)
        for number in range(200):
            await here.ask(number)
        judge = Judge(here, asked)
        assert least <= judge.reads(wanted=1000) <= most
        read = ["good" in one.answer for one in judge.read]
        assert 0 <= read.count(False) - read.count(True) <= 16, "no more is taken than can be compared"
        here.canary.end(asked.id)
    alone = order(share=1.0, judge=JUDGE)
    here.canary.order(alone)
    for number in range(50):
        await here.ask(number)
    assert Judge(here, alone).reads(wanted=1000) == 16, "there is nobody to compare it with"


@canary_scenario
async def test_of_a_shadow_both_answers_to_a_request_are_judged(here: CanarySetup) -> None:
    asked = order(share=1.0, shadow=True, judge=JUDGE)
    here.canary.order(asked)
    here.engine("old").says = says("a good one")
    here.shadow(*["a poor one"] * 20)
    judge = Judge(here, asked)
    for number in range(1, 21):
        assert await here.ask(number) == "old"
        await settled(here, asked, number)
        judge.reads()
        if here.canary.order(asked).state != "running":
            break
    report = here.canary.order(asked)
    assert (report.state, (report.reason or "").partition(":")[0]) == ("breached", "judge")
    assert [one.question for one in judge.read[:4]] == ["1", "1", "2", "2"]
