"""What the pages say when there is nothing, when nobody answers, and when a key is wanted."""

import socket

import pytest

from tests.ui.page import PAGES, opened, words
from tests.ui.ui_server import MODEL, UiServer


@pytest.mark.parametrize("name", PAGES)
def test_a_server_that_is_down_is_told_in_words(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("API_URL", f"http://127.0.0.1:{port}")
    page = opened(name)
    assert not page.exception
    assert len(page.error) + len(page.warning) == 1, "it is said once"
    assert f"No server can be reached at http://127.0.0.1:{port}" in page.error[0].value


def test_an_empty_server_is_told_what_to_do_with(empty_server: UiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_URL", empty_server.url)
    for name, said in (
        ("evals", "No eval is done yet"),
        ("data", "No training data was made yet"),
        ("jobs", "No such job"),
    ):
        page = opened(name)
        assert not page.error, words(page)
        assert said in "".join(element.value for element in page.info)


def test_a_key_is_asked_for_and_then_used(empty_server: UiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_URL", empty_server.url)
    key = empty_server.http.post("/keys", json={"name": "me", "scopes": ["admin"]}).json()["key"]
    for name in PAGES:
        page = opened(name)
        assert not page.exception
        assert len(page.error) == 1, words(page)
        assert "Enter a key in the sidebar" in page.error[0].value, name
    page.text_input(key="api_key").set_value(key).run()
    assert not page.error, words(page)
    assert f"**{MODEL}** serves since" in words(opened("overview", key))
    jobs_key = {"authorization": f"Bearer {key}"}
    small = empty_server.http.post("/keys", json={"name": "small", "scopes": ["infer"]}, headers=jobs_key).json()["key"]
    assert "Enter a key with that scope" in opened("jobs", small).error[0].value
    assert not opened("playground", small).error


def test_the_servers_own_address_leads_to_the_pages(empty_server: UiServer) -> None:
    answer = empty_server.http.get("/ui")
    assert (answer.status_code, answer.headers["location"]) == (307, "http://127.0.0.1:8501")
    elsewhere = empty_server.http.get("/ui", headers={"host": "inference.example.org:8765"})
    assert elsewhere.status_code == 404
    assert "ssh -L 8501:localhost:8501 inference.example.org" in elsewhere.json()["detail"]
