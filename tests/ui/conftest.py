"""Servers for the pages: one with two checkpoints, an eval of each and a shard; one with a fleet; an empty one."""

import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.browser import browser
from tests.ui.control_server import ControlServer, control_server
from tests.ui.ui_server import EARLY, LINES, MODEL, UiServer, ui_server

_PATIENCE_MS = 240_000


@pytest.fixture(autouse=True)
def main_module() -> Iterator[None]:
    """Streamlit makes a page the main module, which processes that later tests fork would run again at their start."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


@pytest.fixture(scope="session")
def filled_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UiServer]:
    with ui_server(tmp_path_factory.mktemp("filled_server")) as there:
        there.register(EARLY, 300)
        there.http.put("/datasets/sums.jsonl", content=LINES.encode()).raise_for_status()
        there.evaluate(EARLY)
        there.evaluate(MODEL)
        config = {
            "template": "What is {{a}}+{{b}}?",
            "verify": "executed",
            "num_examples": 3,
            "rows": [{"a": a, "b": a + 30} for a in (41, 52, 63)],
        }
        there.done("/data_gen/jobs", {"model_id": "active", "strategy": "custom", "config": config})
        yield there


@pytest.fixture
def empty_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UiServer]:
    with ui_server(tmp_path_factory.mktemp("empty_server")) as there:
        yield there


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlServer]:
    """With the members m1 and m2, both ready."""
    with control_server(tmp_path_factory.mktemp("fleet"), "m1", "m2") as there:
        yield there


@pytest.fixture(scope="session")
def bare_control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlServer]:
    """Without members."""
    with control_server(tmp_path_factory.mktemp("bare_control")) as there:
        yield there


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    with browser() as running:
        yield running


@pytest.fixture
def blank_page(chrome: Browser) -> Iterator[Page]:
    """One who has opened nothing yet. What the console complains of fails the test, and asking another host does."""
    context = chrome.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(_PATIENCE_MS)
    expect.set_options(timeout=_PATIENCE_MS)
    page = context.new_page()
    trouble: list[str] = []
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("request", lambda request: trouble.extend(_elsewhere(request.url)))
    yield page
    context.close()
    assert not trouble


def _elsewhere(url: str) -> list[str]:
    where = urlsplit(url)
    return [url] if where.scheme in {"http", "https", "ws", "wss"} and where.hostname != "127.0.0.1" else []
