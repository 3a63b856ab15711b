"""Debian's Chromium, driven by Playwright, and the web UI that it looks at."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests import debian
from tests.e2e.server import free_port
from tests.eventually import wait_until

IDLE = '[data-testid="stApp"][data-test-script-state="notRunning"]'
_START_LIMIT_S = 240.0


@contextmanager
def browser() -> Iterator[Browser]:
    """One without a window; skips the test where there is none. Chromium's own sandbox does not work for root."""
    program = debian.program("chromium")
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        running = playwright.chromium.launch(executable_path=program, args=arguments)
        try:
            yield running
        finally:
            running.close()


@contextmanager
def web_ui(api_url: str, folder: Path, port: int | None = None) -> Iterator[str]:
    """The UI of the server at `api_url`; its URL. What it prints goes into `folder`."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "ui", "--port", str(port), "--api-url", api_url]
    with (folder / "ui.txt").open("w") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_until("the web UI is ready", lambda: _is_up(url), _START_LIMIT_S)
            yield url
        finally:
            process.terminate()
            process.wait(240)


def open_page(page: Page, url: str, name: str) -> None:
    """By its address, as a bookmark does, and until all of it is there. `name` may have a query."""
    page.goto(f"{url}/{name}")
    title = name.partition("?")[0].capitalize()
    expect(page.get_by_role("heading", name=title, level=1)).to_be_visible()
    page.locator(IDLE).wait_for()
    expect(page.get_by_role("dialog")).to_have_count(0)  # "Page not found"


def _is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/_stcore/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
