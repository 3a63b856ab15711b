"""The web UI in a real browser, against the real server."""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.browser import browser, open_page, web_ui
from tests.e2e.server import EARLY, FINAL_ID, Server

EARLY_ID = "browser-0300"
DATASET = "math_eval.jsonl"
QUESTIONS = 60
_PATIENCE_MS = 120_000

pytestmark = pytest.mark.usefixtures("early")


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    with browser() as running:
        yield running


@pytest.fixture(scope="module")
def url(chrome: Browser, server: Server) -> Iterator[str]:
    """The UI's; started only where there is a browser."""
    with web_ui(server.url, server.base_dir) as there:
        yield there


@pytest.fixture(scope="module")
def early(chrome: Browser, server: Server) -> Iterator[None]:
    """A second model is registered."""
    server.copy_checkpoint(EARLY, EARLY_ID)
    server.http.post("/models/register", json={"id": EARLY_ID, "source": "test", "step": 300}).raise_for_status()
    yield
    server.http.post("/models/set_active", json={"id": FINAL_ID}).raise_for_status()
    server.forget(EARLY_ID)


@pytest.fixture
def page(chrome: Browser) -> Iterator[Page]:
    """A visitor of its own. What its console complains of fails the test, and so does a request to another host."""
    context = chrome.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(_PATIENCE_MS)
    expect.set_options(timeout=_PATIENCE_MS)
    visitor = context.new_page()
    trouble: list[str] = []
    visitor.on("pageerror", lambda error: trouble.append(str(error)))
    visitor.on("request", lambda request: trouble.extend(_elsewhere(request.url)))
    yield visitor
    context.close()
    assert not trouble


def _elsewhere(url: str) -> list[str]:
    where = urlsplit(url)
    return [url] if where.scheme in {"http", "https", "ws", "wss"} and where.hostname != "127.0.0.1" else []


def _choose(page: Page, label: str, option: str) -> None:
    """In a select box: by its label, the option whose text begins so."""
    page.get_by_role("combobox", name=re.compile(f"{re.escape(label)}$")).click()
    page.get_by_role("option", name=re.compile(f"^{re.escape(option)}")).click()


def _evaluate(server: Server, model_id: str) -> None:
    server.http.post("/models/set_active", json={"id": model_id}).raise_for_status()
    body = {"model_id": model_id, "name": "browser", "dataset_ref": DATASET, "max_samples": QUESTIONS}
    job = server.job(server.http.post("/eval/jobs", json=body).raise_for_status().json()["job_id"])
    assert job["status"] == "done", job["error"]


def _answer(page: Page, name: str) -> None:
    page.get_by_role("dialog").get_by_role("button", name=name, exact=True).click()


def test_a_chat_answers(page: Page, url: str) -> None:
    open_page(page, url, "playground")
    page.get_by_placeholder("Ask, for example").fill("What is 17+25?")
    page.keyboard.press("Enter")
    answer = page.get_by_test_id("stChatMessage").nth(1)
    expect(answer.get_by_text("42", exact=True)).to_be_visible()
    expect(answer).to_contain_text(f"{FINAL_ID} ·")


def test_activate_switches_and_roll_back_goes_back(page: Page, url: str, server: Server) -> None:
    open_page(page, url, "models")
    _choose(page, "Switch to", EARLY_ID)
    page.get_by_role("button", name="Activate …").click()
    _answer(page, "Activate")
    expect(page.get_by_text(f"{EARLY_ID} serves; before it {FINAL_ID}.")).to_be_visible()
    method = page.get_by_test_id("stMetric").filter(has_text="Method")
    expect(method).to_contain_text(re.compile("in_place|blue_green"))
    assert server.http.get("/models/active").json()["id"] == EARLY_ID
    page.get_by_role("button", name="Roll back to the one before …").click()
    _answer(page, "Roll back")
    expect(page.get_by_text(f"{FINAL_ID} serves; before it {EARLY_ID}.")).to_be_visible()
    assert server.http.get("/models/active").json()["id"] == FINAL_ID


def test_an_eval_that_is_started_runs_to_its_chart(page: Page, url: str, server: Server) -> None:
    open_page(page, url, "evals")
    page.get_by_role("tab", name="Start one").click()
    _choose(page, "Dataset", DATASET)
    count = page.get_by_label("At most so many questions")
    count.fill(str(QUESTIONS))
    count.press("Tab")
    page.get_by_role("button", name="Start", exact=True).click()
    said = page.get_by_text(re.compile(r"^eval_\S+ is pending"))
    expect(said).to_be_visible()
    job_id = said.inner_text().split()[0]
    job = server.job(job_id)
    assert job["status"] == "done", job["error"]
    page.get_by_role("tab", name="Results").click()
    expect(page.get_by_test_id("stVegaLiteChart").locator("canvas, svg").first).to_be_visible()
    expect(page.get_by_text("The bars are 95 % intervals")).to_be_visible()


def test_compare_shows_what_was_fixed_and_broken(page: Page, url: str, server: Server) -> None:
    _evaluate(server, EARLY_ID)
    _evaluate(server, FINAL_ID)
    open_page(page, url, "evals")
    page.get_by_role("tab", name="Compare").click()
    fixed, broken = (page.get_by_test_id("stMetric").filter(has_text=name) for name in ("Fixed", "Broken"))
    expect(fixed).to_contain_text(re.compile(r"[1-9]"))
    expect(broken).to_contain_text(re.compile(r"\d"))
    expect(page.get_by_text(re.compile("^What is ")).first).to_be_visible()
    expect(page.get_by_text(re.compile("^✗ ")).first).to_be_visible()
    expect(page.get_by_text(re.compile("^✓ ")).first).to_be_visible()


def test_a_page_that_refreshes_itself_keeps_what_is_being_typed(page: Page, url: str, server: Server) -> None:
    open_page(page, url, "models")
    page.get_by_role("tab", name="Register").click()
    typed = page.get_by_label("Tags, with commas between")
    typed.press_sequentially("half a wo")
    server.copy_checkpoint(EARLY, "browser-new")
    counted = page.get_by_text("registered, the newest first")
    before = counted.inner_text()
    server.http.post("/models/register", json={"id": "browser-new", "source": "test"}).raise_for_status()
    expect(counted).not_to_have_text(before)
    assert typed.input_value() == "half a wo"
    expect(typed).to_be_focused()
    server.forget("browser-new")
