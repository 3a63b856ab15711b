"""How long the pages of the web UI take with 10,000 jobs, 1,000 models and an eval of 100,000 samples.

A real gateway and control over an engine that adds up, a real Streamlit, and Chromium: from the click on a page's link
until its script has ended.
"""

import argparse
import json
import os
import re
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil
from playwright.sync_api import Page, expect

from tests.e2e.browser import IDLE, browser, web_ui
from tests.ui.ui_server import EARLY, LINES, MODEL, UiServer, ui_server

PAGES = (
    "Overview", "Playground", "Solve", "Runs", "Models", "Evals", "Promotions", "Data", "Jobs", "Fleet", "Keys",
    "System",
)  # fmt: skip
SAMPLES = "Evals: samples"
_IDLE_S = 5.0


@contextmanager
def full(folder: Path, jobs: int, models: int, samples: int = 0) -> Iterator[tuple[UiServer, str]]:
    """With an eval of each of two models, and copies of these rows; the id of the one that has so many samples."""
    with ui_server(folder) as there:
        there.register(EARLY, 300)
        there.http.put("/datasets/sums.jsonl", content=LINES.encode()).raise_for_status()
        there.evaluate(EARLY)
        measured = there.evaluate(MODEL)
        _lengthen(there.settings.layout.eval_runs / measured / "samples.jsonl", samples)
        rows = {"template": "What is {{a}}+1?", "rows": [{"a": 41}], "num_examples": 1}
        there.done("/data_gen/jobs", {"model_id": "active", "strategy": "custom", "config": rows})
        with closing(sqlite3.connect(there.settings.layout.database, timeout=60)) as database, database:
            _copy(database, "models", models)
            _copy(database, "jobs", jobs)
        yield there, measured


def _lengthen(file: Path, count: int) -> None:
    """Until there are `count` samples, by copies that have ids of their own."""
    originals = [json.loads(line) for line in file.read_text().splitlines()]
    with file.open("a") as log:
        for number in range(len(originals), count):
            copy = originals[number % len(originals)] | {"id": str(number + 1), "index": number}
            log.write(f"{json.dumps(copy)}\n")


def _copy(database: sqlite3.Connection, table: str, count: int) -> None:
    """Until there are `count` rows, each a minute older than the one before."""
    database.row_factory = sqlite3.Row
    originals = [dict(row) for row in database.execute(f"SELECT * FROM {table} ORDER BY created_at")]
    oldest = datetime.fromisoformat(originals[0]["created_at"])
    names = list(originals[0])
    rows: list[dict[str, Any]] = []
    for number in range(count - len(originals)):
        row = originals[number % len(originals)]
        made_at = (oldest - timedelta(minutes=number + 1)).isoformat(sep=" ")
        changed = {"id": f"{row['id']}_{number:05d}", "created_at": made_at, "fingerprint": None, "step": 300 + number}
        rows.append(row | {name: value for name, value in changed.items() if name in row})
    slots = ", ".join(f":{name}" for name in names)
    database.executemany(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({slots})", rows)


def seen_s(page: Page, name: str) -> float:
    """From the click on the page's link until it is there whole."""
    began = time.perf_counter()
    page.get_by_test_id("stSidebarNav").get_by_role("link", name=name).click()
    expect(page.get_by_role("heading", name=name, level=1)).to_be_visible()
    page.locator(IDLE).wait_for()
    return time.perf_counter() - began


def samples_seen_s(page: Page, number: int) -> float:
    """From one page of samples to the page `number` of them."""
    field = page.get_by_role("spinbutton", name=re.compile("^Page of"))
    field.fill(str(number))
    began = time.perf_counter()
    field.press("Enter")
    expect(page.get_by_text(re.compile(f"^{10 * number - 9:,} to "))).to_be_visible()
    page.locator(IDLE).wait_for()
    return time.perf_counter() - began


class Processor:
    """Processor time of server, UI and browser together, less what they spend while nothing is clicked.

    It is about what a page takes on a machine with nothing else to do, since one waits for the other.
    """

    def __init__(self) -> None:
        began = self._spent_s()
        time.sleep(_IDLE_S)
        self._idle = (self._spent_s() - began) / _IDLE_S

    @contextmanager
    def spent_s(self, into: list[float]) -> Iterator[None]:
        """Appends what was spent inside."""
        before, began = self._spent_s(), time.perf_counter()
        yield
        into.append(self._spent_s() - before - self._idle * (time.perf_counter() - began))

    def _spent_s(self) -> float:
        spent = time.process_time()
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                times = child.cpu_times()
                spent += times.user + times.system
        return spent


def _p95(values: list[float]) -> float:
    return quantiles(values, n=20)[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--models", type=int, default=1_000)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=20)
    told = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        full(Path(folder), told.jobs, told.models, told.samples) as (there, measured),
        web_ui(there.url, Path(folder)) as url,
        browser() as chrome,
    ):
        page = chrome.new_page(viewport={"width": 1280, "height": 900})
        expect.set_options(timeout=60_000)
        page.set_default_timeout(60_000)
        began = time.perf_counter()
        page.goto(url)
        page.locator(IDLE).wait_for()
        opened_s = time.perf_counter() - began  # the program itself comes with the first page
        took: dict[str, list[float]] = {name: [] for name in (*PAGES, SAMPLES)}
        worked: dict[str, list[float]] = {name: [] for name in (*PAGES, SAMPLES)}
        seen_s(page, "Solve")  # which asks for little by itself
        processor = Processor()
        for _ in range(told.rounds + 1):
            for name in (*PAGES[1:], PAGES[0]):
                with processor.spent_s(worked[name]):
                    took[name].append(seen_s(page, name))
        page.goto(f"{url}/evals?tab=Samples&eval={measured}")
        for number in range(told.rounds + 1):
            with processor.spent_s(worked[SAMPLES]):
                took[SAMPLES].append(samples_seen_s(page, 2 + number * (told.samples // 10 // (told.rounds + 2))))
        print(f"{told.jobs} jobs, {told.models} models, {told.samples} samples, {os.cpu_count()} cores;"
              f" load {os.getloadavg()[0]:.1f}")  # fmt: skip
        print(f"opened in {opened_s:.2f} s; then from page to page:")
        for name, times in took.items():
            first, *later = times
            spent = worked[name][1:]
            print(f"{name:15s} first {first:5.2f} s   then p50 {median(later):5.2f} s   p95 {_p95(later):5.2f} s"
                  f"   processor p50 {median(spent):5.2f} s   p95 {_p95(spent):5.2f} s")  # fmt: skip


if __name__ == "__main__":
    main()
