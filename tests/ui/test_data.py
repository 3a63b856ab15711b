"""The page of training data: the charts of a job's quality, and pipelines from text to a job."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from tests.ui.page import cells, opened, words
from tests.ui.ui_server import UiServer, ui_server

ROWS = [{"id": f"r{a}", "a": a, "b": 100 - a} for a in (11, 24, 37, 48)]
PIPELINE = """
num_examples = 4
filters = []
user = "{{ question }}"
assistant = "{{ answer }}"

[[columns]]
name = "doc"
kind = "rows"
rows = [{ numbers = [12, 13, 14] }, { numbers = [] }]

[[columns]]
name = "number"
kind = "each"
of = "doc.numbers"

[[columns]]
name = "question"
kind = "expression"
template = "What is {{ number }}+5?"

[[columns]]
name = "answer"
kind = "prompt"
template = "{{ question }}"
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[UiServer, str, str]]:
    """With one job that is done, and one that missed a limit."""
    with ui_server(tmp_path_factory.mktemp("data")) as there:
        config: dict[str, Any] = {
            "template": "What is {{a}}+{{b}}?",
            "rows": ROWS,
            "num_examples": 4,
            "verifiers": [{"name": "regex", "pattern": "^10"}, {"name": "numeric", "answer_field": "a"}],
        }
        body = {"model_id": "active", "strategy": "custom", "config": config}
        failed = there.http.post("/data_gen/jobs", json=body).raise_for_status().json()["job_id"]
        with there.http.stream("GET", f"/jobs/{failed}/events") as events:  # ends with the job
            "".join(events.iter_text())
        config |= {"verifiers": [{"name": "regex", "pattern": "^100$"}], "quality": {"limits": {"min_rows": 4}}}
        yield there, there.done("/data_gen/jobs", body), str(failed)


@pytest.fixture(autouse=True)
def _of_the_server(made: tuple[UiServer, str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_URL", made[0].url)


def charts(page: AppTest) -> list[dict[str, Any]]:
    """What each is drawn by."""
    return [json.loads(element.proto.spec) for element in page.get("vega_lite_chart")]


def fields(chart: dict[str, Any]) -> set[str]:
    return {str(each["field"]) for name, each in chart["encoding"].items() if name != "tooltip"}


def test_a_report_is_drawn_with_lengths_reasons_verifiers_and_sources(made: tuple[UiServer, str, str]) -> None:
    page = opened("data", job=made[1])
    page.toggle(key=f"report_{made[1]}").set_value(True).run()
    assert not page.exception
    assert not page.error, words(page)
    seen = words(page)
    for said in (
        "Rows: 4",
        "Accepted: 100.0 %",
        "Tokens a row: 11",
        "regex 100.0 %",
        "4 sources; the largest has 25.0 %",
    ):
        assert said in seen, seen
    assert "Limits that were kept: min_rows" in seen
    assert [fields(chart) for chart in charts(page)] == [
        {"characters", "of", "rows"}, {"what", "count", "outcome"}, {"what", "share"},
    ]  # fmt: skip


def test_the_report_of_a_job_that_made_nothing_says_what_was_dropped(made: tuple[UiServer, str, str]) -> None:
    page = opened("data", job=made[2])
    page.toggle(key=f"report_{made[2]}").set_value(True).run()
    assert not page.exception
    seen = words(page)
    assert "Rows: 0" in seen
    assert "numeric 0.0 %" in seen
    assert {"what", "count"} in [fields(chart) for chart in charts(page)]


def test_a_pipeline_is_looked_at_and_then_run(made: tuple[UiServer, str, str]) -> None:
    there = made[0]
    before = there.http.get("/jobs?type=data_gen").json()["jobs"]
    page = opened("data", tab="Pipeline")
    page.text_area(key="pipeline_text").set_value(PIPELINE).run()
    page.button(key="pipeline_preview").click().run()
    assert not page.exception
    seen = words(page)
    assert "1 of 2 rows would be kept, 3 examples" in seen, seen
    assert "user: What is 13+5?" in seen
    assert "assistant: 18" in seen
    table = cells(page)
    assert [(row["row"], row["number"]) for row in table] == [(0, "12"), (0, "13"), (0, "14"), (1, "")]
    assert "empty_list" in table[3]["why dropped"]
    assert len(there.http.get("/jobs?type=data_gen").json()["jobs"]) == len(before), "a preview makes no job"
    page.button(key="pipeline_run").click().run()
    assert any("is pending" in element.value for element in page.success), words(page)
    job = there.http.get("/jobs?type=data_gen").json()["jobs"][0]
    assert job["config"]["strategy"] == "pipeline"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("user = ", "The pipeline is not valid TOML"),
        ("{", "The pipeline is not valid JSON"),
        ('{"user": 1}', "config.columns: is missing"),
        (PIPELINE.replace('template = "{{ question }}"', 'template = "{{ qestion }}"'), "did you mean question?"),
        (PIPELINE.replace('of = "doc.numbers"', 'of = "answer"'), "a cycle"),
    ],
)
def test_what_cannot_be_a_pipeline_is_said_in_words(written: str, said: str) -> None:
    page = opened("data", tab="Pipeline")
    page.text_area(key="pipeline_text").set_value(written).run()
    for button in page.button:
        if button.key == "pipeline_preview":
            button.click().run()
    assert not page.exception
    assert said in words(page)
    assert "Preview" not in [element.value for element in page.header]
