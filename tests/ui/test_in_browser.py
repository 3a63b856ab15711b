"""What a person finds on the pages in a browser, with the mouse alone, and without one.

Each test of a question begins at the overview, follows what can be clicked, and counts the clicks.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.e2e.browser import open_page, web_ui
from tests.ui.page import PAGES
from tests.ui.ui_server import EARLY, ENDLESS, FAILING, LINES, UiServer, ui_server

LATE = "step-1500"
_TABS = 30
_GRAVE = ("serious", "critical")

# Streamlit fades what is being drawn anew, for as long as that takes.
_UNFADED = "[data-stale] { opacity: 1 !important; transition: none !important }"


@dataclass(frozen=True, slots=True)
class Site:
    """A server with two measured checkpoints, a job that runs, one that failed, and its web UI at `url`."""

    ui_server: UiServer
    url: str
    running: str
    failed: str
    measured: str


@pytest.fixture(scope="module")
def site(chrome: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    base = tmp_path_factory.mktemp("site")
    with ui_server(base, max_concurrent_jobs=2) as there, web_ui(there.url, base) as url:
        there.register(EARLY, 300)
        there.register(LATE, 1500)
        for name, content in (("sums", LINES), ("endless", _line(ENDLESS)), ("failing", _line(FAILING))):
            there.http.put(f"/datasets/{name}.jsonl", content=content.encode()).raise_for_status()
        there.evaluate(EARLY)
        measured = there.evaluate(LATE)
        failed = _job(there, "failing")
        with there.http.stream("GET", f"/jobs/{failed}/events") as events:  # ends with the job
            for _ in events.iter_text():
                pass
        yield Site(there, url, _job(there, "endless"), failed, measured)


def _line(question: str) -> str:
    return json.dumps({"question": question, "answer": "7"})


def _job(there: UiServer, dataset: str) -> str:
    body = {"model_id": LATE, "name": dataset, "dataset_ref": f"{dataset}.jsonl"}
    return str(there.http.post("/eval/jobs", json=body).raise_for_status().json()["job_id"])


@pytest.fixture
def page(blank_page: Page, site: Site) -> Page:
    """A visitor at the overview."""
    open_page(blank_page, site.url, "overview")
    return blank_page


def test_which_checkpoint_serves_since_when_and_how_long_its_switch_paused(page: Page) -> None:
    line = page.get_by_test_id("stMain").get_by_text(re.compile(rf"{LATE} serves since \d{{4}}-"))
    expect(line).to_contain_text(re.compile(r"\(.* ago|just now\)"))
    expect(line).to_contain_text(re.compile(r"paused requests for [\d.]+ m?s; its proof \(\w+\) passed"))


def test_what_the_box_does_now_and_why_a_job_failed(page: Page, site: Site) -> None:
    expect(page.get_by_text(f"eval of {LATE} on endless.jsonl: 0 of 1").first).to_be_visible()
    expect(page.get_by_text("the engine cannot divide by zero").first).to_be_visible()
    page.get_by_role("link", name=f"eval of {LATE} on failing.jsonl failed").click()
    expect(page.get_by_role("heading", name="Jobs", level=1)).to_be_visible()
    shown = page.locator(f".st-key-job_{site.failed}")
    expect(shown.get_by_text("the engine cannot divide by zero").first).to_be_visible()
    expect(page.locator(f".st-key-job_{site.running}")).to_have_count(0)


def test_whether_the_later_checkpoint_is_really_better(page: Page) -> None:
    page.get_by_role("link", name="Runs").click()
    for step in ("step 1,500", "step 300"):
        page.get_by_test_id("stCheckbox").filter(has_text=step).click()
    page.get_by_role("button", name="Compare").click()
    said = page.get_by_role("heading", name=re.compile(f"^{LATE} is better than {EARLY}: "))
    expect(said).to_contain_text("6 fixed, 0 broken, p = 0.031.")
    page.get_by_role("link", name="All samples whose verdict changed").click()
    expect(page.get_by_text("(was wrong)").first).to_be_visible()


def test_the_form_of_a_switch_is_reached_with_the_keyboard(blank_page: Page, site: Site) -> None:
    open_page(blank_page, site.url, "models")
    wanted = blank_page.get_by_role("combobox", name=re.compile("Switch to"))
    expect(wanted).to_be_visible()
    for _ in range(_TABS):
        blank_page.keyboard.press("Tab")
        if wanted.evaluate("one => one === document.activeElement"):
            return
    pytest.fail(f"not reached with {_TABS} tabs")


def test_the_browsers_way_back_leads_to_the_tab_before(blank_page: Page, site: Site) -> None:
    open_page(blank_page, site.url, "evals")
    blank_page.get_by_role("tab", name="Compare").click()
    expect(blank_page).to_have_url(re.compile("tab=Compare"))
    blank_page.get_by_role("link", name="Jobs").click()
    expect(blank_page.get_by_role("heading", name="Jobs", level=1)).to_be_visible()
    blank_page.go_back()
    expect(blank_page.get_by_role("heading", name="Evals", level=1)).to_be_visible()
    expect(blank_page.get_by_role("tab", name="Compare")).to_have_attribute("aria-selected", "true")


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_has_no_barriers(blank_page: Page, site: Site, name: str, scheme: Literal["light", "dark"]) -> None:
    """None that axe calls serious, by all of its rules, and none in the order of headings."""
    blank_page.emulate_media(color_scheme=scheme)
    open_page(blank_page, site.url, name)
    blank_page.add_style_tag(content=_UNFADED)
    found = Axe().run(blank_page).response["violations"]
    grave = {one["id"]: one["nodes"] for one in found if one["impact"] in _GRAVE or one["id"] == "heading-order"}
    assert not grave, json.dumps(grave, indent=1)


def test_every_page_fits_a_narrow_screen(blank_page: Page, site: Site) -> None:
    blank_page.set_viewport_size({"width": 390, "height": 800})
    for name in PAGES:
        open_page(blank_page, site.url, name)
        expect(blank_page.get_by_test_id("stException")).to_have_count(0)
        assert blank_page.evaluate("document.scrollingElement.scrollWidth") <= 390, f"{name} is wider than the screen"
