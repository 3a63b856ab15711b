"""A canary behind dispatch: who is answered by whom, and that it is back at once."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.access.meter import METER, Meter
from gateway.errors import CanaryRunning, NoRoom
from gateway.inference.dispatch import Dispatch
from gateway.request.context import RequestContext
from gateway.serving.admission import Admission, Bounds
from gateway.serving.canary.canary import LEASE_S, Canary
from gateway.serving.canary.choice import takes_part, unit_of
from gateway.serving.canary.losses import CHAT, COMPLETIONS, Scorer, answered_text
from gateway.serving.canary.shadow import AT_ONCE, Shadows
from gateway.serving.naming import Naming
from gateway.traffic.judged import in_words
from stepserve.canary import (
    CanaryAnswer,
    CanaryJudged,
    CanaryOrder,
    CanaryReport,
    CanaryState,
    CanaryVerdict,
    CanaryVerdicts,
)
from stepserve.contract import (
    ActivateRequest,
    AskOutput,
    AskRequest,
    AskResult,
    Continuations,
    EngineOverrides,
    ModelRef,
)
from stepserve.request_id import key_id
from stepserve.settings import Alias
from tests.eventually import eventually
from tests.unit.gateway.fakes import FakeClient, FakeEngine, model, signature
from tests.unit.gateway.pool_house import House

SHARE = 0.25


def order(canary_id: str = "job", **changed: object) -> CanaryOrder:
    asked = {
        "id": canary_id, "candidate": model("new"), "active": model("old").digest, "share": SHARE, "seconds": 60.0,
        "max_error_rate": 0.05, "sticky": "request",
    }  # fmt: skip
    return CanaryOrder.model_validate(asked | changed)


class Stage:
    """`old` is active, `new` answers beside it."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.now_s = 0.0
        self.canary = Canary(lambda: self.now_s)
        house.tried = lambda: self.canary.tried
        self.naming = Naming({"quick": Alias(model="active", temperature=0.5)})
        self.dispatch = Dispatch(house.router, 10_000, naming=self.naming, canary=self.canary)

    def engine(self, name: str) -> FakeEngine:
        return next(engine for engine in self.house.garage.started if engine.ref.id == name)

    async def ask(
        self, number: int, name: str | None = "active", session: str = "", path: str = "/v1/completions"
    ) -> str:
        """Which model answered."""
        body = {"prompt": str(number)} | ({} if name is None else {"model": name})
        client = FakeClient(json.dumps(body).encode(), path)
        client.scope["headers"] = [(b"x-session-id", session.encode())] if session else []
        RequestContext.of(client.scope).request_id = f"r{number}"
        await self.dispatch(client.scope, client.receive, client.send)
        self.said = client.body
        return client.headers.get(b"x-model-id", b"").decode()

    def shadow(self, *texts: str, status: int = 200) -> list[AskRequest]:
        """The candidate's answers as it gives them to shadows, in turn; what it was asked."""
        asked: list[AskRequest] = []
        left = list(texts)

        async def ask(request: AskRequest) -> AskResult:
            asked.append(request)
            body = {"choices": [{"text": left.pop(0)}], "usage": {"completion_tokens": 5}} if status == 200 else {}
            return AskResult(model="new", digest="", outputs=[AskOutput(status=status, body=body)])

        self.canary.shadows = Shadows(ask, Scorer(self.house.router))
        return asked

    async def answered_by_new(self, numbers: range, **how: str) -> set[int]:
        return {number for number in numbers if await self.ask(number, **how) == "new"}

    def state(self) -> CanaryState:
        return self.canary.order(order()).state


def on_stage(test: Callable[[Stage], Awaitable[None]]) -> Callable[[], None]:
    async def run() -> None:
        house = House()
        house.free_bytes = 10**6
        async with house.open(), asyncio.timeout(240):
            await house.pool.activate(ActivateRequest(model=model("old")))
            await house.load(model("new", signature()))
            await test(Stage(house))

    def played() -> None:
        asyncio.run(run())

    played.__name__ = str(getattr(test, "__name__", ""))
    return played


@on_stage
async def test_a_share_of_actives_requests_goes_to_the_candidate_and_every_answer_names_its_model(here: Stage) -> None:
    assert await here.answered_by_new(range(20)) == set()
    here.canary.order(order())
    chosen = await here.answered_by_new(range(400))
    expected = {n for n in range(400) if takes_part("job", unit_of((), None, f"r{n}", by_key=False), SHARE)}
    assert chosen == expected
    report = here.canary.order(order())
    assert (report.candidate.requests, report.active.requests) == (len(chosen), 400 - len(chosen))
    assert (report.candidate.errors, report.active.errors, report.state) == (0, 0, "running")


@on_stage
async def test_requests_that_name_a_model_are_left_alone(here: Stage) -> None:
    here.canary.order(order(share=1.0))
    assert await here.ask(1) == "new"
    assert await here.ask(2, name=None) == "new"
    assert await here.ask(3, name="old") == "old"
    assert await here.ask(4, name="new") == "new"
    assert await here.ask(5, path="/v1/responses") == "old"
    assert here.canary.order(order(share=1.0)).candidate.requests == 2


@on_stage
async def test_the_candidate_gets_the_body_with_its_own_name_and_the_aliass_preset(here: Stage) -> None:
    here.canary.order(order(share=1.0))
    assert await here.ask(1, name="quick") == "new"
    assert json.loads(here.said.partition(b":")[2]) == {"model": "new", "prompt": "1", "temperature": 0.5}


@on_stage
async def test_a_session_and_a_key_go_one_way(here: Stage) -> None:
    here.canary.order(order())
    for session in ("a", "b", "c", "d", "e"):
        assert len({await here.ask(number, session=session) for number in range(20)}) == 1
    here.canary.end("job")
    here.canary.order(order(sticky="key"))
    by_key = {}
    for key in map(str, range(40)):
        key_id.set(key)
        (by_key[key],) = {await here.ask(number) for number in range(5)}
    assert set(by_key.values()) == {"old", "new"}


@on_stage
async def test_a_breach_is_over_at_once_and_nobody_gets_the_candidate_any_more(here: Stage) -> None:
    here.canary.order(order())
    here.engine("new").status = 500
    chosen = await here.answered_by_new(range(400))
    report = here.canary.order(order())
    assert report.state == "breached"
    assert report.reason is not None
    assert report.reason.startswith("errors: ")
    assert report.candidate.errors == report.candidate.requests == len(chosen) < 5
    assert await here.answered_by_new(range(400, 800)) == set()
    assert here.state() == "breached"


@on_stage
async def test_answers_that_run_on_are_a_breach(here: Stage) -> None:
    asked = order(share=0.5, max_tokens_ratio=2.0)
    here.canary.order(asked)
    for number in range(200):
        meter = Meter()
        METER.set(meter)
        unit = unit_of((), None, f"r{number}", by_key=False)
        meter.completion_tokens = 90 if takes_part("job", unit, 0.5) else 10 + number % 3
        await here.ask(number)
    METER.set(None)
    report = here.canary.order(asked)
    assert (report.state, (report.reason or "").partition(":")[0]) == ("breached", "tokens")


@on_stage
async def test_refusals_are_no_errors_of_the_model(here: Stage) -> None:
    here.canary.order(order(share=1.0))
    here.engine("new").status = 400
    for number in range(50):
        await here.ask(number)
    report = here.canary.order(order(share=1.0))
    assert (report.state, report.candidate.requests) == ("running", 0)


@on_stage
async def test_a_candidate_that_is_gone_leaves_its_share_to_the_active_model_and_does_not_pass(here: Stage) -> None:
    for asked in (order("job", share=1.0), order("dark", share=1.0, shadow=True)):
        here.canary.order(asked)
        await here.house.pool.unload("new", forced=True)
        assert await here.ask(1) == "old"
        here.now_s += 1.0
        report = here.canary.order(asked)
        assert (report.state, report.reason) == ("lost", "`new` is not loaded any more")
        await here.house.load(model("new", signature()))
        again = here.canary.order(asked)
        assert (again.state, again.elapsed_s) == ("running", 0.0)
        here.canary.end(asked.id)


@on_stage
async def test_a_candidate_stays_loaded_for_as_long_as_its_canary(here: Stage) -> None:
    asked = order(share=1.0)
    here.canary.order(asked)
    with pytest.raises(CanaryRunning, match="A canary of `new` is running"):
        await here.house.pool.unload("new")
    for wait in (False, True):
        with pytest.raises(NoRoom, match=r"2 models are loaded \(max_loaded_models\), and new is to stay \(a canary\)"):
            await here.house.load(model("third", signature()), wait=wait)
    other_options = model("new", signature()).model_copy(update={"engine": EngineOverrides(max_num_seqs=3)})
    with pytest.raises(NoRoom, match="a canary of `new` runs"):
        await here.house.load(other_options)
    assert await here.ask(1) == "new"
    assert here.canary.order(asked).state == "running"
    here.now_s += LEASE_S + 1
    await here.house.load(model("third", signature()))
    assert here.house.pool.loaded.names == ["third"], "nobody asks after the canary any more"


@on_stage
async def test_an_adapter_on_the_active_models_engine_has_its_canary_too(here: Stage) -> None:
    tuned = ModelRef(id="tuned", path="/models/tuned", digest="sha256:tuned1", base=model("old"))
    await here.house.load(tuned)
    asked = order(share=1.0, candidate=tuned)
    here.canary.order(asked)
    assert await here.ask(1) == "tuned"
    report = here.canary.order(asked)
    assert (report.state, report.candidate.requests) == ("running", 1)
    with pytest.raises(CanaryRunning, match="`tuned`"):
        await here.house.pool.unload("tuned")


@on_stage
async def test_how_a_canary_ended_is_told_again_to_a_control_that_had_no_time_to_keep_it(here: Stage) -> None:
    asked = order(share=1.0)
    here.canary.order(asked)
    here.engine("new").status = 500
    for number in range(5):
        await here.ask(number)
    assert here.canary.order(asked).state == "breached"
    here.canary.end(asked.id)
    assert here.canary.order(asked).state == "breached", "it does not begin anew"
    assert await here.ask(9) == "old"
    assert here.canary.order(order("other")).state == "running"


@on_stage
async def test_a_candidate_whose_engine_dies_of_a_request_is_over_its_limit(here: Stage) -> None:
    asked = order(share=1.0, max_error_rate=0.5)
    here.canary.order(asked)
    engine = here.engine("new")
    engine.release.clear()
    asking = asyncio.create_task(here.ask(1))
    await engine.entered.wait()
    slot = here.house.pool.loaded.answering("new")
    assert slot is not None
    slot.host.condemn()
    assert await here.ask(2) == "old"
    await slot.host.abort_requests()
    await asking
    report = here.canary.order(asked)
    assert (report.state, report.reason) == ("breached", "errors: its engine died while it answered")


@on_stage
async def test_what_a_busy_candidate_has_no_place_for_is_answered_by_the_active_model(here: Stage) -> None:
    here.dispatch = replace(here.dispatch, admission=Admission(Bounds(1, 0, 0)))
    here.canary.order(order(share=1.0))
    engine = here.engine("new")
    engine.release.clear()
    inside = asyncio.create_task(here.ask(1))
    await engine.entered.wait()
    assert await here.ask(2) == "old"
    engine.release.set()
    assert await inside == "new"
    assert await here.ask(3) == "new"
    report = here.canary.order(order(share=1.0))
    assert (report.candidate.requests, report.active.requests, report.candidate.errors) == (2, 1, 0)


@on_stage
async def test_another_active_model_ends_it(here: Stage) -> None:
    here.canary.order(order(active=model("older").digest))
    assert await here.answered_by_new(range(100)) == set()
    report = here.canary.order(order(active=model("older").digest))
    assert (report.state, report.reason) == ("superseded", "another model became active")


@on_stage
async def test_it_passes_after_its_time_and_is_lost_when_nobody_asks(here: Stage) -> None:
    assert here.state() == "running"
    assert await here.answered_by_new(range(900, 920))
    with pytest.raises(CanaryRunning, match="`new`"):
        here.canary.order(order("other"))
    while here.now_s < 60:
        assert here.state() == "running"
        here.now_s += LEASE_S / 2
    assert here.canary.order(order()).state == "passed"
    assert here.canary.order(order()).elapsed_s == 60.0
    assert await here.answered_by_new(range(100)) == set()
    assert here.canary.order(order("other")).state == "running"
    here.now_s += LEASE_S + 1
    assert await here.answered_by_new(range(100)) == set()
    report = here.canary.order(order("other"))
    assert (report.state, report.elapsed_s) == ("running", 0.0), "whoever comes back begins it again"


@on_stage
async def test_what_it_sees_is_told_while_it_runs(here: Stage) -> None:
    asked = order(max_error_rate=0.5, max_latency_ratio=3.0)
    assert (here.canary.order(asked).latency_ratio, here.canary.order(asked).guards[0].value) == (None, None)
    METER.set(meter := Meter())
    meter.completion_tokens = 9
    for number in range(30):
        await here.ask(number)
    METER.set(None)
    report = here.canary.order(asked)
    assert (report.state, report.latency_ratio) == ("running", 1.0)
    assert report.tokens_ratio == pytest.approx(1)
    assert [(one.guard, one.value, one.limit, one.evidence) for one in report.guards] == [
        ("errors", 0.0, 0.5, 0.0), ("latency", 1.0, 3.0, 0.0),
    ]  # fmt: skip
    here.engine("new").status = 500
    while here.canary.order(asked).candidate.errors < 3:
        number += 1
        await here.ask(number)
    errors = here.canary.order(asked).guards[0]
    assert errors.value == pytest.approx(3 / here.canary.order(asked).candidate.requests)


def ended(here: Stage, asked: CanaryOrder) -> CanaryReport:
    """Its time passes."""
    while (report := here.canary.order(asked)).state == "running":
        here.now_s += LEASE_S / 2
    return report


@on_stage
async def test_a_canary_that_nobody_asked_shows_nothing(here: Stage) -> None:
    for asked in (order("job"), order("dark", shadow=True)):
        report = ended(here, asked)
        assert (report.state, report.candidate.requests) == ("undecided", 0)
        assert report.reason == "0 requests came to the candidate in 60 s; at least 1 (min_requests) had to"
        here.canary.end(asked.id)
        assert here.canary.order(asked).state == "undecided", "it does not begin anew"
    assert await here.answered_by_new(range(50)) == set()


@on_stage
async def test_a_canary_waits_for_as_many_requests_as_it_was_told(here: Stage) -> None:
    asked = order(share=1.0, min_requests=3)
    for number in range(2):
        here.canary.order(asked)
        await here.ask(number)
    report = ended(here, asked)
    assert (report.state, report.reason) == (
        "undecided", "2 requests came to the candidate in 60 s; at least 3 (min_requests) had to",
    )  # fmt: skip
    more = order("more", share=1.0, min_requests=3)
    for number in range(3):
        here.canary.order(more)
        await here.ask(number)
    assert ended(here, more).state == "passed"


@on_stage
async def test_a_ratio_to_a_model_that_nobody_asked_shows_nothing(here: Stage) -> None:
    asked = order(share=1.0, max_latency_ratio=2.0)
    here.canary.order(asked)
    assert await here.ask(1) == "new"
    report = ended(here, asked)
    assert (report.state, report.reason) == (
        "undecided", "0 requests came to the active model in 60 s; at least 1 (min_requests) had to",
    )  # fmt: skip


async def settled(here: Stage, asked: CanaryOrder, compared: int) -> CanaryReport:
    def is_over() -> bool:
        report = here.canary.order(asked)
        return report.compared >= compared or report.state != "running"

    await eventually(is_over)
    return here.canary.order(asked)


SAYS_OLD = b'{"choices": [{"text": "four"}]}'


@on_stage
async def test_a_shadow_is_asked_the_same_and_nobody_gets_its_answer(here: Stage) -> None:
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


@on_stage
async def test_a_shadow_compares_what_both_models_make_of_the_answer_that_was_given(here: Stage) -> None:
    asked = order(share=1.0, shadow=True)
    here.canary.order(asked)
    here.engine("old").says = b'{"choices": [{"text": "four or so"}]}'
    here.engine("old").nats, here.engine("new").nats = 0.25, 0.75
    here.shadow("five")
    assert await here.ask(1) == "old"
    await eventually(lambda: here.canary.order(asked).active.loss is not None)
    report = here.canary.order(asked)
    assert (report.candidate.loss, report.active.loss) == (0.75, 0.25)
    await here.house.pool.unload("new", forced=True)
    text = Continuations(prompt="1", texts=["four"])
    assert await Scorer(here.house.router)(model("new"), text) is None, "it loads nothing"


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


@on_stage
async def test_a_shadow_that_fails_is_a_breach_that_nobody_noticed(here: Stage) -> None:
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


JUDGE = {"share": 1.0, "max_drop": 0.1, "min_answers": 3}


class Judge:
    """Reads as control does: fetches answers, and calls those good that have `good` in them; None: none is read."""

    def __init__(self, here: Stage, asked: CanaryOrder) -> None:
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


@on_stage
async def test_a_judge_reads_as_many_answers_of_each_and_ends_a_canary_whose_candidate_answers_badly(
    here: Stage,
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


@on_stage
async def test_a_judge_waits_for_the_first_answer_and_is_told_of_it_at_once(here: Stage) -> None:
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


@on_stage
async def test_a_judge_that_is_away_ends_nothing_and_shows_nothing(here: Stage) -> None:
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


@on_stage
async def test_a_judged_canary_passes_when_enough_of_its_answers_are_as_good(here: Stage) -> None:
    asked = order(share=0.5, judge=JUDGE)
    here.canary.order(asked)
    here.engine("old").says = here.engine("new").says = says("a good one")
    judge = Judge(here, asked)
    for number in range(20):
        await here.ask(number)
        judge.reads()
    assert ended(here, asked).state == "passed"


@on_stage
async def test_streams_are_read_and_what_has_no_words_is_not(here: Stage) -> None:
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


@on_stage
async def test_a_share_is_judged_and_no_more_waits_than_there_is_room_for(here: Stage) -> None:
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


@on_stage
async def test_of_a_shadow_both_answers_to_a_request_are_judged(here: Stage) -> None:
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


@on_stage
async def test_shadows_never_pile_up_and_streams_have_none(here: Stage) -> None:
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
