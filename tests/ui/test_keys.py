"""Keys are made, looked at and revoked on their page."""

import pytest
from streamlit.testing.v1 import AppTest

from tests.ui.page import cells, opened, words
from tests.ui.ui_server import UiServer


def _make(page: AppTest, name: str, scopes: list[str]) -> str:
    page.text_input(key="keys_name").set_value(name)
    page.multiselect(key="keys_scopes").set_value(scopes)
    next(button for button in page.button if button.label == "Make").click().run()
    assert f"{name} may {', '.join(scopes)}." in page.success[0].value
    return str(next(code.value for code in page.code if code.value.startswith("sy_")))


def test_a_key_is_shown_once_and_can_be_revoked(empty_server: UiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_URL", empty_server.url)
    page = opened("keys")
    assert "There is no key" in words(page)
    owner = _make(page, "owner", ["admin"])
    page = opened("keys", owner)
    trainer = _make(page, "trainer", ["infer", "jobs"])
    page = opened("keys", owner)
    assert trainer not in words(page), "it is shown once"
    rows = {row["name"]: row for row in cells(page) if "scopes" in row}
    assert (rows["trainer"]["scopes"], rows["trainer"]["status"]) == ("infer, jobs", "valid")
    page.selectbox(key="keys_one").select(rows["trainer"]["id"]).run()
    page.button(key="keys_revoke").click().run()
    page.button(key="keys_revoke_yes").click().run()
    keys = empty_server.http.get("/keys", headers={"authorization": f"Bearer {owner}"}).json()["keys"]
    assert {key["name"]: key["status"] for key in keys} == {"owner": "valid", "trainer": "revoked"}
