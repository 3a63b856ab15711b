"""`make screenshots`: a picture of each page of the web UI, and a terminal session, into docs/images.

Of a server with the demo model. `python -m tests.e2e.screenshots NAME …` makes those alone; `terminal` is the session.
"""

import argparse
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, expect

from tests.e2e import recording
from tests.e2e.browser import browser, open_page, web_ui
from tests.e2e.server import DEMO, FINAL_ID, REPOSITORY, Server

IMAGES = REPOSITORY / "docs" / "images"
DATASET = "math_eval.jsonl"
STEPS = (300, 500)
_COLOURS = 96
_PATIENCE_MS = 60_000
_QUESTION = "What is 17+25?"
_TERMINAL = "terminal"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*_PAGES, _TERMINAL, []], default=[])
    wanted = parser.parse_args().names or [*_PAGES, _TERMINAL]
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="stepserve-") as folder, Server(Path(folder)) as server:
        server.wait_ready()
        _fill(server)
        if _TERMINAL in wanted:
            _record(server)
        with web_ui(server.url, server.base_dir) as url, browser() as chrome:
            page = chrome.new_page(viewport={"width": 1280, "height": 960}, color_scheme="light")
            expect.set_options(timeout=_PATIENCE_MS)
            page.set_default_timeout(_PATIENCE_MS)
            for name, prepare in _PAGES.items():
                if name not in wanted:
                    continue
                open_page(page, url, name.partition("-")[0])
                prepare(page, server)
                for unready in ("stSpinner", "stSkeleton"):
                    expect(page.get_by_test_id(unready)).to_have_count(0)
                _keep(page.screenshot(animations="disabled"), IMAGES / f"ui-{name}.png")
                print(IMAGES / f"ui-{name}.png", flush=True)


def _record(server: Server) -> None:
    """Looks at the models, compares two, and switches under way."""
    evals = server.http.get("/jobs", params={"type": "eval", "status": "done"}).raise_for_status().json()["jobs"]
    late, *_, early = [str(job["id"]) for job in evals]
    commands = (
        "stepserve models list",
        f"stepserve eval compare {early} {late} --show 2",
        f"stepserve models activate run7-step-{STEPS[-1]}",
        "stepserve models rollback",
        "stepserve jobs list",
    )
    session = [recording.play(command, {"INFERENCE_URL": server.url}) for command in commands]
    (IMAGES / f"{_TERMINAL}.svg").write_text(recording.as_svg(session))
    print(IMAGES / f"{_TERMINAL}.svg", flush=True)


def _fill(server: Server) -> None:
    """Two earlier checkpoints, an eval of each model and training data from the failures of the first."""
    for step in STEPS:
        name = f"run7-step-{step}"
        server.copy_checkpoint(DEMO / f"step-{step:04d}", name)
        _post(server, "/models/register", {"id": name, "source": "trainer", "step": step, "tags": "run7"})
        measured = _evaluate(server, name)
        if step == STEPS[0]:
            config = {"source_eval_run_id": measured, "domain": "math", "num_examples": 60, "samples": 16}
            body = {"model_id": name, "strategy": "fix_eval_failures", "config": config | {"max_tokens": 8}}
            _done(server, _post(server, "/data_gen/jobs", body))
    _evaluate(server, FINAL_ID)


def _evaluate(server: Server, model_id: str) -> str:
    _post(server, "/models/set_active", {"id": model_id})
    made = _post(server, "/eval/jobs", {"model_id": model_id, "name": "run7", "dataset_ref": DATASET})
    return _done(server, made)


def _done(server: Server, made: dict[str, Any]) -> str:
    job = server.job(made["job_id"])
    assert job["status"] == "done", job
    return str(made["job_id"])


def _post(server: Server, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = server.http.post(path, json=body).raise_for_status().json()
    return answer


def _overview(page: Page, server: Server) -> None:
    """With a little traffic to draw."""
    for number in range(12):
        for _ in range(2 + 5 * (number % 4)):
            server.ask(_QUESTION)
        page.wait_for_timeout(1000)


def _playground(page: Page, _: Server) -> None:
    page.get_by_role("combobox").first.click()
    page.get_by_role("option", name=f"run7-step-{STEPS[0]}").click()
    page.keyboard.press("Escape")
    page.get_by_placeholder("Ask, for example").fill(_QUESTION)
    page.keyboard.press("Enter")
    expect(page.get_by_text("tokens · ")).to_have_count(2)


def _solve(page: Page, _: Server) -> None:
    page.get_by_role("tabpanel").first.get_by_role("combobox").first.click()
    page.get_by_role("option", name=_QUESTION).click()
    page.get_by_role("button", name="Solve", exact=True).first.click()
    expect(page.get_by_test_id("stCode").first).to_be_visible()


def _models(page: Page, _: Server) -> None:
    page.get_by_role("combobox").first.click()
    page.get_by_role("option", name=f"run7-step-{STEPS[1]}").click()
    page.get_by_role("button", name="Activate …").click()
    page.get_by_role("dialog").get_by_role("button", name="Activate").click()
    expect(page.get_by_text(f"run7-step-{STEPS[1]} serves")).to_be_visible()


def _evals(page: Page, _: Server) -> None:
    expect(page.get_by_test_id("stVegaLiteChart").locator("canvas, svg").first).to_be_visible()


def _compare(page: Page, _: Server) -> None:
    page.get_by_role("tab", name="Compare").click()
    expect(page.get_by_text("✗").first).to_be_visible()


def _data(page: Page, _: Server) -> None:
    page.get_by_text("Read", exact=True).click()
    expect(page.get_by_text("user: ").first).to_be_visible()


def _shown(page: Page, _: Server) -> None:
    page.wait_for_timeout(1500)


_PAGES: dict[str, Callable[[Page, Server], None]] = {
    "overview": _overview,
    "playground": _playground,
    "solve": _solve,
    "runs": _evals,
    "models": _models,
    "evals": _evals,
    "evals-compare": _compare,
    "data": _data,
    "jobs": _shown,
    "keys": _shown,
    "system": _shown,
}


def _keep(png: bytes, path: Path) -> None:
    """With as few colours as such a page has, which makes the file a third as large."""
    picture = Image.open(io.BytesIO(png)).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE)
    picture.save(path, optimize=True)


if __name__ == "__main__":
    main()
