"""A page of another origin in a real browser: it may ask where the settings say so, and nowhere else."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from stepserve.access_settings import AccessSettings
from tests.e2e.browser import browser
from tests.integration.full_stack import MODEL, FullStack, run_story

ASK = """async ([url, model]) => {
    const body = JSON.stringify({model, messages: []});
    const headers = {"content-type": "application/json", "authorization": "Bearer none"};
    try {
        const answer = await fetch(url + "/v1/chat/completions", {method: "POST", headers, body});
        return [answer.status, answer.headers.get("x-model-id")];
    } catch (error) {
        return [0, String(error)];
    }
}"""


class _PageServer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>a page</title>")

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@contextmanager
def page_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _PageServer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(240)


def _asked_from(origin: str, url: str) -> list[Any]:
    with browser() as chrome:
        page: Page = chrome.new_page()
        page.goto(origin)
        seen: list[Any] = page.evaluate(ASK, [url, MODEL])
        return seen


def test_a_page_may_ask_where_its_origin_is_named(tmp_path: Path) -> None:
    with page_server() as origin, page_server() as other:

        async def story(there: FullStack) -> None:
            assert await asyncio.to_thread(_asked_from, origin, there.url) == [200, MODEL]
            status, said = await asyncio.to_thread(_asked_from, other, there.url)
            assert status == 0, "the browser keeps the answer from it"
            assert "TypeError" in said

        run_story(tmp_path, story, access=AccessSettings(cors_origins=[origin]))
