"""Switching on the page Models: nothing is chosen, nothing happens before an answer, and why a switch failed."""

import pytest
from streamlit.testing.v1 import AppTest

from tests.ui.control_server import ACTIVE, ControlServer
from tests.ui.page import opened, words


@pytest.fixture(autouse=True)
def _bare_control(bare_control: ControlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_URL", bare_control.url)


def _active(bare_control: ControlServer) -> str:
    return str(bare_control.http.get("/models/active").json()["id"])


def _asked(page: AppTest, model_id: str) -> AppTest:
    page.selectbox(key="models_target").select(model_id).run()
    return page.button(key="models_activate").click().run()


def test_a_switch_is_asked_for_and_tells_method_and_pause(bare_control: ControlServer) -> None:
    bare_control.add("next", 0.9)
    page = opened("models")
    assert page.selectbox(key="models_target").value is None, "the newest model is not the one that is wanted"
    assert page.button(key="models_activate").disabled
    _asked(page, "next")
    seen = words(page)
    assert f"{ACTIVE} → next" in seen
    assert "It was not active before." in seen
    assert "The last such switch (restart) paused requests for 10 ms." in seen
    assert "Requests under way are answered to their end first; new ones wait." in seen
    assert _active(bare_control) == ACTIVE, "nothing happens before the answer"
    page.button(key="models_switch_yes").click().run()
    assert _active(bare_control) == "next"
    seen = words(page)
    assert f"next serves; before it {ACTIVE}." in seen
    assert "Method: restart" in seen
    page.button(key="models_roll_back").click().run()
    assert f"next → {ACTIVE}" in words(page)
    assert _active(bare_control) == "next"
    page.button(key="models_switch_yes").click().run()
    assert _active(bare_control) == ACTIVE


def test_a_switch_that_failed_says_why_and_what_serves(bare_control: ControlServer) -> None:
    bare_control.add("broken", 0.9)
    bare_control.gateway.fail_with = "its weights answer ![NaN](http://192.0.2.1/)"
    try:
        page = _asked(opened("models"), "broken")
        page.button(key="models_switch_yes").click().run()
    finally:
        bare_control.gateway.fail_with = None
    said = page.error[0].value
    assert said.startswith("broken was not activated: its weights answer !\\[NaN]")
    assert said.endswith(f"{ACTIVE} serves; requests were paused for 10 ms.")
    _asked(page, "broken")
    assert "The last switch to it failed: its weights answer !\\[NaN]" in words(page)
    assert _active(bare_control) == ACTIVE


def test_a_switch_that_never_began_leaves_the_question_open(bare_control: ControlServer) -> None:
    bare_control.add("belated", 0.9)
    bare_control.gateway.refuse_switches_with = (409, "switch_in_progress", "switching to another")
    try:
        page = _asked(opened("models"), "belated")
        page.button(key="models_switch_yes").click().run()
    finally:
        bare_control.gateway.refuse_switches_with = None
    assert "switching to another" in page.error[0].value
    assert "models_switch_yes" in [button.key for button in page.button]
    assert _active(bare_control) == ACTIVE
