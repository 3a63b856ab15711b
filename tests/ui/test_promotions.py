"""The page Promotions: what was decided in words, those under way, and a form in which nothing dangerous is chosen."""

import json
import re

import pytest
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Progress
from typer.testing import CliRunner

from stepserve.canary import CanaryVerdict
from stepserve.client.cli import app
from stepserve.client.results import Promotion
from tests.ui.control_server import ACTIVE, ControlServer
from tests.ui.page import cells, opened, words
from ui import promotion_words
from ui.promotion_words import Asked

HOSTILE = "![x](http://192.0.2.1/?secret) :red[so] costs $5 or -1"
CANARY = {"share": 0.1, "seconds": 60}


@pytest.fixture(autouse=True)
def _bare_control(bare_control: ControlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_URL", bare_control.url)


def _said(job: dict[str, object]) -> str:
    return promotion_words.headline(Promotion.model_validate(job))[1]


def test_a_promotion_is_told_in_words_with_the_questions_that_decided(bare_control: ControlServer) -> None:
    bare_control.add("new", 1.0)
    bare_control.gateway.canary_states = ["passed"]
    job = bare_control.promote("new", on_pass="activate", canary=CANARY)
    bare_control.http.post("/models/set_active", json={"id": ACTIVE}).raise_for_status()
    page = opened("promotions", promotion=job["job_id"])
    assert not page.error, words(page)
    assert page.success[0].value == f"new earned the place of {ACTIVE}. It was made the active model."
    seen = words(page)
    assert f"Is new better than {ACTIVE} in something, and worse in nothing by more than 2 points?" in seen
    assert "It stops as soon as the answers are clear." in seen
    assert "Then it answers 10.0 % of the live requests for 60 s, and is taken back if that goes wrong." in seen
    metric = job["per_metric"][0]
    assert (
        f"numeric on sums.jsonl: {100 * metric['a']:.1f} % → 100.0 %, {100 * metric['difference']:+.1f} points" in seen
    )
    assert f"{metric['fixed']} that were wrong are right now, and 0 that were right are wrong now." in seen
    assert re.search(r"It is better\. If it were not, chance would make it look so at most [\d.]+ of 100 times\.", seen)
    assert f"{metric['samples_used']} of 60 questions were needed." in seen
    assert "It passed after 2 s." in seen
    assert f"expected: {job['items'][0]['target']}" in seen
    assert [row["decision"] for row in cells(page) if "decision" in row] == ["promoted"]
    assert page.selectbox(key="promotion_promotion").value == job["job_id"], "the address names it"


def test_what_a_refused_model_said_is_text(bare_control: ControlServer) -> None:
    bare_control.add("bad", 0.0, HOSTILE)
    job = bare_control.promote("bad")
    page = opened("promotions", promotion=job["job_id"])
    assert page.error[0].value == f"bad may not take the place of {ACTIVE}."
    assert HOSTILE in [element.value for element in page.code]
    assert "It is worse than it may be. If it were not, chance would make it look so at most" in words(page)
    drawn = [element.value for kind in (page.markdown, page.caption) for element in kind]
    assert not any("192.0.2.1" in text for text in drawn)


def test_an_open_one_says_what_so_many_questions_would_have_shown(bare_control: ControlServer) -> None:
    bare_control.add("copy", 0.5)
    job = bare_control.promote("copy", max_samples=20)
    assert _said(job) == f"It is open whether copy may take the place of {ACTIVE}. Nothing was switched."
    asked = Asked.of(job["config"])
    assert asked is not None
    certain = promotion_words.certainty(job["per_metric"][0], "undecided", asked)
    assert certain is not None
    assert re.fullmatch(r"So many questions would show a difference of \+[\d.]+ points or more .*", certain)


def test_a_canary_that_breached_its_limits_says_so(bare_control: ControlServer) -> None:
    bare_control.add("fragile", 1.0)
    bare_control.gateway.canary_states = ["breached"]
    job = bare_control.promote("fragile", on_pass="activate", canary={**CANARY, "shadow": True})
    held = "fragile passed the questions, but did not hold. Its canary was ended: it is breached."
    assert _said(job) == f"{held} The model before serves."
    asked = Asked.of(job["config"])
    assert asked is not None
    assert "Then it is asked 10.0 % of the live requests too for 60 s, and nobody gets its answers." in list(
        asked.rules()
    )
    assert (
        promotion_words.canary_said(job["canary"])
        == "It was over a limit, and ended at once after 2 s: it is breached."
    )


def test_a_canary_that_runs_shows_what_it_sees(bare_control: ControlServer) -> None:
    bare_control.add("tried", 1.0)
    bare_control.gateway.canary_states = ["running"]
    bare_control.gateway.canary_verdicts = [
        CanaryVerdict(number=n, good=good) for n, good in enumerate((True, False, None))
    ]
    suite = [{"dataset_ref": "sums.jsonl", "metric": "numeric"}]
    canary = {**CANARY, "judge": {"model": ACTIVE}}
    asked = {"candidate": "tried", "suite": suite, "on_pass": "activate", "canary": canary}
    job_id = str(bare_control.http.post("/promotions", json=asked).json()["job_id"])
    bare_control.until_canary(job_id)
    page = opened("promotions", promotion=job_id)
    assert not page.error, words(page)
    shown = [element.value for element in page.info]
    assert "tried passed the questions. Its canary runs." in shown
    assert "It has been running for 2 s: 10 requests to the candidate, 10 to the active model." in shown
    said = (
        "The judge read 2 answers of each model: 50.0 % of the candidate's are good, and 100.0 % of the active model's."
    )
    assert f"{said} 1 got no verdict, and count for nobody." in words(page)
    assert f"{ACTIVE} reads answers of both meanwhile, and ends it when the candidate has 10 points fewer" in words(
        page
    )
    bars = [element.proto.text for element in page.get("progress") if isinstance(element, Progress)]
    assert "Requests that failed: 0.4 %, at most 1.0 % allowed; 50 % of the evidence that would end it." in bars
    found = CliRunner().invoke(app, ["promote", "show", job_id, "--host", bare_control.url])
    assert found.exit_code == 0, found.output
    assert "candidate\t10\t0\t0.5000\t3.0000" in found.output
    assert "ratio\t\t\t1.2500\t" in found.output
    assert "errors\t0.0040\t0.0100\t50 %" in found.output
    assert "good, candidate\t0.5000" in found.output
    bare_control.gateway.canary_states = ["undecided"]
    bare_control.decided(job_id)
    found = CliRunner().invoke(app, ["promote", "show", job_id, "--host", bare_control.url])
    assert found.output.startswith("Undecided.")


def test_a_canary_that_had_too_few_requests_says_so(bare_control: ControlServer) -> None:
    bare_control.add("unseen", 1.0)
    bare_control.gateway.canary_states = ["undecided"]
    job = bare_control.promote("unseen", on_pass="activate", canary=CANARY)
    assert _said(job) == "unseen passed the questions, but its canary showed too little. Nothing was switched."
    assert promotion_words.canary_said(job["canary"]) == "It showed too little after 2 s: it is undecided."
    asked = Asked.of(job["config"])
    assert asked is not None
    assert "With fewer than 20 requests in that time it stays open." in list(asked.rules())
    seen = words(opened("promotions", promotion=job["job_id"]))
    assert "It is better. If it were not, chance would make it look so" in seen, "the questions decided that"


def test_a_config_that_a_person_wrote_breaks_nothing() -> None:
    assert Asked.of({}) is None
    assert Asked.of({"sets": 1, "candidate": None}) is None


def test_a_measure_is_drawn_by_step_with_what_was_decided_and_switched(bare_control: ControlServer) -> None:
    for model_id, share, step in (("early", 0.2, 100), ("late", 0.9, 300), ("unplaced", 0.1, None)):
        bare_control.add(model_id, share, step=step)
    body = {"model_id": "late", "name": "n", "dataset_ref": "sums.jsonl", "metrics": ["accuracy", "numeric"]}
    bare_control.ended(str(bare_control.http.post("/eval/jobs", json=body).raise_for_status().json()["job_id"]))
    refused, promoted = bare_control.promote("early"), bare_control.promote("late", on_pass="activate")
    unplaced = bare_control.promote("unplaced", baseline=ACTIVE)
    bare_control.http.post("/models/set_active", json={"id": ACTIVE}).raise_for_status()
    page = opened("runs")
    assert not page.error, words(page)
    assert "numeric on sums.jsonl" in page.selectbox(key="runs_measure").options
    page.selectbox(key="runs_measure").select("numeric on sums.jsonl").run()
    rows = cells(page)
    (metric,) = refused["per_metric"]
    assert {(row["step"], row["model"], row["what"]) for row in rows if row["step"] in {100, 300}} >= {
        (100, "early", "refused"), (300, "late", "promoted"), (300, "late", "eval"), (300, "late", "made active"),
    }  # fmt: skip
    by_job = {row["job"]: row for row in rows}
    assert by_job[refused["job_id"]]["score"] == f"{100 * metric['b']:.1f} %"
    low = max(0.0, metric["a"] + metric["interval"][0])
    assert by_job[refused["job_id"]]["interval"].startswith(f"{100 * low:.1f} % to ")
    assert unplaced["job_id"] not in by_job, "its model has no step"
    (measured,) = [row for row in rows if (row["what"], row["model"]) == ("eval", "late")]
    assert measured["score"] == "90.0 %"
    assert " % to " in measured["interval"]
    switched = next(row for row in rows if row["what"] == "made active")
    assert switched[""] == f"by promotion {promoted['job_id']}"
    labels = [site.label for site in page.checkbox]
    assert any(one.startswith("**step 300** · late · 90.0 % (") and one.endswith(" · promoted") for one in labels)
    assert "**step 100** · early · not measured · refused" in labels
    assert str(refused["reasons"][0]) in words(page), "why it was refused"
    (chart,) = page.get("vega_lite_chart")
    spec = json.loads(chart.proto.spec)
    assert {layer["mark"]["type"] for layer in spec["layer"]} == {"rule", "line", "point"}
    page.selectbox(key="runs_measure").select("accuracy on sums.jsonl").run()
    assert {row["what"] for row in cells(page)} <= {"eval", "made active"}, "no promotion asked for that"


def _form() -> AppTest:
    return opened("promotions", tab="Start one")


def _filled(page: AppTest, candidate: str) -> AppTest:
    page.selectbox(key="promotions_candidate").select(candidate)
    page.multiselect(key="promotions_datasets").select("sums.jsonl").run()
    page.selectbox(key="promotions_metric_sums.jsonl").select("numeric")
    return page


def test_nothing_dangerous_is_chosen_in_the_form(bare_control: ControlServer) -> None:
    bare_control.add("formed", 1.0)
    page = _form()
    assert page.selectbox(key="promotions_candidate").value is None
    assert ACTIVE not in page.selectbox(key="promotions_candidate").options
    assert page.radio(key="promotions_on_pass").value == "notify"
    assert "promotions_go" not in [button.key for button in page.button], "something is missing yet"
    _filled(page, "formed").run()
    page.button(key="promotions_go").click().run()
    assert not page.error, words(page)
    job_id = page.query_params["promotion"]
    decided = bare_control.decided(str(job_id))
    assert (decided["decision"], decided["config"]["on_pass"], decided["activation"]) == ("promoted", "notify", None)
    assert page.selectbox(key="promotions_candidate").value is None, "a second click starts no second one"


def test_a_promotion_that_may_switch_is_started_after_a_question(bare_control: ControlServer) -> None:
    bare_control.add("switching", 1.0)
    page = _filled(_form(), "switching")
    page.radio(key="promotions_on_pass").set_value("activate").run()
    page.number_input(key="promotions_most").set_value(40)
    before = len(bare_control.http.get("/jobs?type=promotion").json()["jobs"])
    page.button(key="promotions_go").click().run()
    assert len(bare_control.http.get("/jobs?type=promotion").json()["jobs"]) == before, (
        "nothing happens before the answer"
    )
    assert "If switching is promoted, it becomes the active model without another question" in words(page)
    page.button(key="promotions_start_yes").click().run()
    job = bare_control.decided(str(page.query_params["promotion"]))
    assert (job["decision"], job["activation"]["status"]) == ("promoted", "activated")
    bare_control.http.post("/models/set_active", json={"id": ACTIVE}).raise_for_status()


def test_a_canary_of_the_form_may_have_a_judge(bare_control: ControlServer) -> None:
    bare_control.add("canaried", 1.0)
    bare_control.gateway.canary_states = ["undecided"]
    page = _filled(_form(), "canaried")
    page.radio(key="promotions_on_pass").set_value("activate").run()
    page.toggle(key="promotions_canary").set_value(True).run()
    judge = page.selectbox(key="promotions_judge")
    assert (judge.value, "canaried" in judge.options) == (None, False), "nobody judges itself"
    judge.select(ACTIVE).run()
    page.button(key="promotions_go").click().run()
    page.button(key="promotions_start_yes").click().run()
    job = bare_control.decided(str(page.query_params["promotion"]))
    assert job["config"]["canary"]["judge"]["model"] == ACTIVE


def test_one_under_way_shows_how_far_it_is_and_can_be_cancelled(bare_control: ControlServer) -> None:
    bare_control.add("slow", 0.5)
    bare_control.gateway.has_room_for.discard("slow")  # it waits for room
    suite = [{"dataset_ref": "sums.jsonl", "metric": "numeric"}]
    job = bare_control.http.post("/promotions", json={"candidate": "slow", "suite": suite}).json()["job_id"]
    page = opened("promotions", promotion=job)
    page.button(key=f"promotions_cancel_{job}").click().run()
    assert bare_control.http.get(f"/jobs/{job}").json()["status"] == "cancelled"
    assert "It was cancelled before it was decided." in words(page.run())


def test_an_address_that_names_none_says_so() -> None:
    page = opened("promotions", promotion="promotion_none")
    assert "promotion_none" in page.warning[0].value
    assert "promotion" not in page.query_params
