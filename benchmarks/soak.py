"""Hours of mixed traffic, and what the server loses in them: `python -m benchmarks.soak --hours 2`, or `make soak`.

Chats and streams, clients that leave in the middle, a switch a minute by each method in turn, pushed weights, eval and
data jobs, keys that are made and revoked, scrapes, and the routes that an open web UI asks. Every ten seconds it writes
down what each process holds (memory, open files, threads, shared memory), the temporary files and the rows of each
table, into `--out`. At the end it judges: memory by at most 1 % an hour after the first ten minutes, nothing left open,
the 99th percentile of the last ten minutes at most 1.1 of that of the first. Ctrl+C ends it early. Exits with 1 where
something drifts, or where requests failed.
"""

import argparse
import asyncio
import contextlib
import json
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.processes import stepserve
from benchmarks.soak_drift import Drift, Point, counted, latency, memory
from benchmarks.soak_traffic import EARLY, OTHER_ID, Traffic
from benchmarks.soak_watch import files, holds, names, open_kinds, rows, shown
from stepserve.paths import Layout

EVERY_S = 10.0
_COUNTED = ("processes", "open_files", "threads", "shared_segments")


class Watcher:
    """`samples`: one for each time, with `at_s`, `processes` by name, `temporary_files` and `rows` by table."""

    def __init__(self, layout: Layout, temporary: Path) -> None:
        self._layout = layout
        self._temporary = temporary
        self._me = psutil.Process()
        self._since_s = time.monotonic()
        self.samples: list[dict[str, Any]] = []

    async def run(self) -> None:
        while True:
            self.samples.append(await asyncio.to_thread(self._sample))
            await asyncio.sleep(EVERY_S)

    def _sample(self) -> dict[str, Any]:
        return {
            "at_s": round(time.monotonic() - self._since_s, 1),
            "processes": shown(holds(self._me)),
            "temporary_files": files(self._temporary),
            "rows": rows(self._layout.database),
        }

    def judged(self) -> list[Drift]:
        found = [self._counted("temporary files", lambda sample: sample["temporary_files"])]
        for name in names(self.samples):
            there = [sample for sample in self.samples if name in sample["processes"]]
            points = [Point(each["at_s"], each["processes"][name]["memory_bytes"] / 1e6) for each in there]
            found.append(memory(f"{name}: memory, MB", points))
            found += [
                counted(f"{name}: {what}", [Point(each["at_s"], each["processes"][name][what]) for each in there])
                for what in _COUNTED
            ]
        return [each for each in found if each is not None]

    def _counted(self, name: str, of: Any) -> Drift | None:
        return counted(name, [Point(sample["at_s"], of(sample)) for sample in self.samples])

    def grown(self) -> dict[str, int]:
        """Rows that came, by table."""
        first, last = self.samples[0]["rows"], self.samples[-1]["rows"]
        return {table: count - first.get(table, 0) for table, count in last.items() if count != first.get(table, 0)}

    def open_now(self, drifts: list[Drift]) -> dict[str, dict[str, int]]:
        """Of what is left open, what it is."""
        leaky = [each.name.split(": open_files")[0] for each in drifts if "open_files" in each.name]
        return {name: open_kinds(self._me, name) for name in leaky}


async def soak(traffic: Traffic, watcher: Watcher, seconds: float) -> None:
    watching = asyncio.create_task(watcher.run())
    try:
        await traffic.run(seconds)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def prepare(url: str, layout: Layout) -> str:
    """A second model; the key of an administrator, which is demanded from now on."""
    shutil.copytree(EARLY, layout.models / OTHER_ID)
    with httpx.Client(base_url=url, timeout=240, trust_env=False) as http:
        http.post("/models/register", json={"id": OTHER_ID, "source": "soak"}).raise_for_status()
        made = http.post("/keys", json={"name": "soak", "scopes": ["admin"]}).raise_for_status()
        key: str = made.json()["key"]
        return key


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--out", type=Path, default=Path("soak.json"), metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stepserve-soak-") as folder:
        layout = Layout(base=Path(folder) / "base", models=Path(folder) / "base" / "models")
        temporary = Path(folder) / "tmp"
        layout.create()
        temporary.mkdir()
        with stepserve(layout.base, temporary=temporary, proof_compute_max_bytes=0) as url:
            traffic, watcher = Traffic(url, prepare(url, layout)), Watcher(layout, temporary)
            with contextlib.suppress(KeyboardInterrupt):
                asyncio.run(soak(traffic, watcher, 3600 * args.hours))
            judged = watcher.judged()
            left_open = watcher.open_now([each for each in judged if each.verdict == "drifts"])
        left_behind = files(temporary)
    tail = latency("chat: p99, s", traffic.latencies)
    judged += [] if tail is None else [tail]
    record = {
        "hours": args.hours,
        "counts": traffic.counts,
        "failures": traffic.failures,
        "judged": [asdict(each) for each in judged],
        "rows_grown": watcher.grown(),
        "open_files": left_open,
        "temporary_files_left": left_behind,
        "samples": watcher.samples,
        "latencies_s": [(round(point.at_s, 2), round(point.value, 4)) for point in traffic.latencies],
    }
    args.out.write_text(json.dumps(record) + "\n")
    _print(judged, record)
    failed = sum(count for what, count in traffic.counts.items() if what.endswith(": failed"))
    return int(failed > 0 or any(each.verdict == "drifts" for each in judged))


def _print(judged: list[Drift], record: dict[str, Any]) -> None:
    shown_table = Table("what", "at first", "at the end", "change", "verdict")
    for each in judged:
        shown_table.add_row(each.name, f"{each.first:.4g}", f"{each.last:.4g}", f"{each.change:.3g}", each.verdict)
    Console(width=120).print(shown_table)
    for what in ("counts", "failures", "rows_grown", "open_files", "temporary_files_left"):
        print(f"{what}: {record[what]}")


if __name__ == "__main__":
    sys.exit(main())
