"""A canary behind dispatch: who is answered by whom, and that it is back at once."""

import asyncio
import json
from dataclasses import replace

import pytest

from gateway.access.meter import METER, Meter
from gateway.errors import CanaryRunning, NoRoom
from gateway.serving.admission import Admission, Bounds
from gateway.serving.canary.canary import LEASE_S
from gateway.serving.canary.choice import takes_part, unit_of
from stepserve.contract import (
    EngineOverrides,
    ModelRef,
)
from stepserve.request_id import key_id
from tests.unit.gateway.fakes import model, signature
from tests.unit.gateway.serving.canary.canary_setup import SHARE, CanarySetup, canary_scenario, ended, order


@canary_scenario
async def test_a_share_of_actives_requests_goes_to_the_candidate_and_every_answer_names_its_model(
    here: CanarySetup,
) -> None:
    assert await here.answered_by_new(range(20)) == set()
    here.canary.order(order())
    chosen = await here.answered_by_new(range(400))
    expected = {n for n in range(400) if takes_part("job", unit_of((), None, f"r{n}", by_key=False), SHARE)}
    assert chosen == expected
    report = here.canary.order(order())
    assert (report.candidate.requests, report.active.requests) == (len(chosen), 400 - len(chosen))
    assert (report.candidate.errors, report.active.errors, report.state) == (0, 0, "running")


@canary_scenario
async def test_requests_that_name_a_model_are_left_alone(here: CanarySetup) -> None:
    here.canary.order(order(share=1.0))
    assert await here.ask(1) == "new"
    assert await here.ask(2, name=None) == "new"
    assert await here.ask(3, name="old") == "old"
    assert await here.ask(4, name="new") == "new"
    assert await here.ask(5, path="/v1/responses") == "old"
    assert here.canary.order(order(share=1.0)).candidate.requests == 2


@canary_scenario
async def test_the_candidate_gets_the_body_with_its_own_name_and_the_aliass_preset(here: CanarySetup) -> None:
    here.canary.order(order(share=1.0))
    assert await here.ask(1, name="quick") == "new"
    assert json.loads(here.said.partition(b":")[2]) == {"model": "new", "prompt": "1", "temperature": 0.5}


@canary_scenario
async def test_a_session_and_a_key_go_one_way(here: CanarySetup) -> None:
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


@canary_scenario
async def test_a_breach_is_over_at_once_and_nobody_gets_the_candidate_any_more(here: CanarySetup) -> None:
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


@canary_scenario
async def test_answers_that_run_on_are_a_breach(here: CanarySetup) -> None:
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


@canary_scenario
async def test_refusals_are_no_errors_of_the_model(here: CanarySetup) -> None:
    here.canary.order(order(share=1.0))
    here.engine("new").status = 400
    for number in range(50):
        await here.ask(number)
    report = here.canary.order(order(share=1.0))
    assert (report.state, report.candidate.requests) == ("running", 0)


@canary_scenario
async def test_a_candidate_that_is_gone_leaves_its_share_to_the_active_model_and_does_not_pass(
    here: CanarySetup,
) -> None:
    for asked in (order("job", share=1.0), order("dark", share=1.0, shadow=True)):
        here.canary.order(asked)
        await here.harness.pool.unload("new", forced=True)
        assert await here.ask(1) == "old"
        here.now_s += 1.0
        report = here.canary.order(asked)
        assert (report.state, report.reason) == ("lost", "`new` is not loaded any more")
        await here.harness.load(model("new", signature()))
        again = here.canary.order(asked)
        assert (again.state, again.elapsed_s) == ("running", 0.0)
        here.canary.end(asked.id)


@canary_scenario
async def test_a_candidate_stays_loaded_for_as_long_as_its_canary(here: CanarySetup) -> None:
    asked = order(share=1.0)
    here.canary.order(asked)
    with pytest.raises(CanaryRunning, match="A canary of `new` is running"):
        await here.harness.pool.unload("new")
    for wait in (False, True):
        with pytest.raises(NoRoom, match=r"2 models are loaded \(max_loaded_models\), and new is to stay \(a canary\)"):
            await here.harness.load(model("third", signature()), wait=wait)
    other_options = model("new", signature()).model_copy(update={"engine": EngineOverrides(max_num_seqs=3)})
    with pytest.raises(NoRoom, match="a canary of `new` runs"):
        await here.harness.load(other_options)
    assert await here.ask(1) == "new"
    assert here.canary.order(asked).state == "running"
    here.now_s += LEASE_S + 1
    await here.harness.load(model("third", signature()))
    assert here.harness.pool.loaded.names == ["third"], "nobody asks after the canary any more"


@canary_scenario
async def test_an_adapter_on_the_active_models_engine_has_its_canary_too(here: CanarySetup) -> None:
    tuned = ModelRef(id="tuned", path="/models/tuned", digest="sha256:tuned1", base=model("old"))
    await here.harness.load(tuned)
    asked = order(share=1.0, candidate=tuned)
    here.canary.order(asked)
    assert await here.ask(1) == "tuned"
    report = here.canary.order(asked)
    assert (report.state, report.candidate.requests) == ("running", 1)
    with pytest.raises(CanaryRunning, match="`tuned`"):
        await here.harness.pool.unload("tuned")


@canary_scenario
async def test_how_a_canary_ended_is_told_again_to_a_control_that_had_no_time_to_keep_it(here: CanarySetup) -> None:
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


@canary_scenario
async def test_a_candidate_whose_engine_dies_of_a_request_is_over_its_limit(here: CanarySetup) -> None:
    asked = order(share=1.0, max_error_rate=0.5)
    here.canary.order(asked)
    engine = here.engine("new")
    engine.release.clear()
    asking = asyncio.create_task(here.ask(1))
    await engine.entered.wait()
    slot = here.harness.pool.loaded.answering("new")
    assert slot is not None
    slot.host.condemn()
    assert await here.ask(2) == "old"
    await slot.host.abort_requests()
    await asking
    report = here.canary.order(asked)
    assert (report.state, report.reason) == ("breached", "errors: its engine died while it answered")


@canary_scenario
async def test_what_a_busy_candidate_has_no_place_for_is_answered_by_the_active_model(here: CanarySetup) -> None:
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


@canary_scenario
async def test_another_active_model_ends_it(here: CanarySetup) -> None:
    here.canary.order(order(active=model("older").digest))
    assert await here.answered_by_new(range(100)) == set()
    report = here.canary.order(order(active=model("older").digest))
    assert (report.state, report.reason) == ("superseded", "another model became active")


@canary_scenario
async def test_it_passes_after_its_time_and_is_lost_when_nobody_asks(here: CanarySetup) -> None:
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


@canary_scenario
async def test_what_it_sees_is_told_while_it_runs(here: CanarySetup) -> None:
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


@canary_scenario
async def test_a_canary_that_nobody_asked_shows_nothing(here: CanarySetup) -> None:
    for asked in (order("job"), order("dark", shadow=True)):
        report = ended(here, asked)
        assert (report.state, report.candidate.requests) == ("undecided", 0)
        assert report.reason == "0 requests came to the candidate in 60 s; at least 1 (min_requests) had to"
        here.canary.end(asked.id)
        assert here.canary.order(asked).state == "undecided", "it does not begin anew"
    assert await here.answered_by_new(range(50)) == set()


@canary_scenario
async def test_a_canary_waits_for_as_many_requests_as_it_was_told(here: CanarySetup) -> None:
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


@canary_scenario
async def test_a_ratio_to_a_model_that_nobody_asked_shows_nothing(here: CanarySetup) -> None:
    asked = order(share=1.0, max_latency_ratio=2.0)
    here.canary.order(asked)
    assert await here.ask(1) == "new"
    report = ended(here, asked)
    assert (report.state, report.reason) == (
        "undecided", "0 requests came to the active model in 60 s; at least 1 (min_requests) had to",
    )  # fmt: skip
