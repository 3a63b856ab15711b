"""Task files of other harnesses are started from the page Evals."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest

from tests.integration.serving import serving
from tests.integration.task_control import add_model, application, gateway_of, install_fake, write_task
from tests.ui.in_thread import in_thread
from tests.ui.page import opened, words


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Control with one task file of eight questions, of which the model answers one wrongly."""
    base = tmp_path_factory.mktemp("tasks")

    @asynccontextmanager
    async def serve() -> AsyncIterator[str]:
        async with AsyncExitStack() as stack:
            listener = socket.create_server(("127.0.0.1", 0))
            there = f"http://127.0.0.1:{listener.getsockname()[1]}"
            app = application(base)
            await stack.enter_async_context(gateway_of(base).running())
            await stack.enter_async_context(serving(app, listener))
            http = await stack.enter_async_context(httpx.AsyncClient(base_url=there, timeout=240))
            await add_model(base, http)
            yield there

    with in_thread("task control", serve) as running:
        install_fake(base)
        write_task(base)
        yield running.it


def test_a_task_file_is_chosen_and_runs_as_an_eval(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_URL", url)
    page = opened("evals", tab="Start one")
    page.radio(key="evals_kind").set_value("A task file of lm-eval or inspect-ai").run()
    assert page.selectbox(key="evals_task_file").options == ["sums.yaml (lm_eval)"]
    assert "Not installed: inspect." in words(page)
    page.text_input(key="evals_task_args").set_value("[1")
    start = next(button for button in page.button if button.label == "Start")
    start.click().run()
    assert page.warning[0].value.startswith("The arguments are not a JSON object: ")
    page.text_input(key="evals_task_args").set_value("")
    page.number_input(key="evals_task_count").set_value(8)
    next(button for button in page.button if button.label == "Start").click().run()
    assert not page.error, words(page)
    job_id = page.success[0].value.split()[0]
    with httpx.Client(base_url=url, timeout=240) as http:
        with http.stream("GET", f"/jobs/{job_id}/events") as events:  # ends with the job
            for _ in events.iter_text():
                pass
        job = http.get(f"/jobs/{job_id}").json()
    assert (job["status"], job["result"]["correct"], job["result"]["total_samples"]) == ("done", 7, 8)
