"""Two commits side by side, in turns: `python -m benchmarks.turns A [B]`, before a release, in five minutes.

A server of each commit runs on the same checkpoint with the packages that are installed here; both are loaded in turn,
in many short rounds: chat at 1, 16 and 64 clients, and a switch in place and back. What changed beyond noise is printed
as `python -m benchmarks.compare` does, and the records are written to A.json and B.json in `--out`. B is the working
tree unless it is named. Exits with 1 where something is worse.
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import httpx

from benchmarks.commits import ROOT, checked_out, git
from benchmarks.compare import changes, report
from benchmarks.load import chat_load
from benchmarks.processes import MODEL_ID, stepserve
from benchmarks.record import Better, Metric, Record

_OTHER = "bench-other"
_CLIENTS = (1, 16, 64)
_REQUESTS = 100
_FEWEST = 6  # rounds, however long they take


class Side:
    """One server and what was measured of it so far."""

    def __init__(self, url: str, base_dir: Path, commit: str) -> None:
        self.commit = commit
        self._url = url
        self._base_dir = base_dir
        self._http = httpx.Client(base_url=url, timeout=240, trust_env=False)
        self._rounds: dict[tuple[str, Better], list[float]] = {}

    def prepare(self) -> None:
        """A second model with other weights, to switch to, and a first load that warms up."""
        shutil.copytree(ROOT / "demo" / "checkpoints" / "step-0500", self._base_dir / "models" / _OTHER)
        self._http.post("/models/register", json={"id": _OTHER, "source": "bench"}).raise_for_status()
        chat_load(self._url, MODEL_ID, 16, _REQUESTS)
        self._switches()

    def measure(self) -> None:
        """One round."""
        for clients in _CLIENTS:
            load = chat_load(self._url, MODEL_ID, clients, max(_REQUESTS, 4 * clients))
            self._note(f"chat, {clients} clients: requests/s", "higher", load.requests_per_s)
            self._note(f"chat, {clients} clients: p99 ms", "lower", load.latency_ms(0.99))
        paused_ms, total_ms = self._switches()
        self._note("switch in place: paused ms", "lower", paused_ms)
        self._note("switch in place: total ms", "lower", total_ms)

    def record(self, turns: str) -> Record:
        metrics = [Metric(name=name, better=better, rounds=rounds) for (name, better), rounds in self._rounds.items()]
        return Record.of(metrics, self.commit, turns)

    def close(self) -> None:
        self._http.close()

    def _switches(self) -> tuple[float, float]:
        """To the other model and back: the pauses and the whole times, added up."""
        paused_ms = total_ms = 0.0
        for model_id in (_OTHER, MODEL_ID):
            answer = self._http.post("/models/set_active", json={"id": model_id}).raise_for_status().json()
            paused_ms, total_ms = paused_ms + answer["paused_ms"], total_ms + answer["total_ms"]
        return paused_ms, total_ms

    def _note(self, name: str, better: Better, value: float) -> None:
        self._rounds.setdefault((name, better), []).append(value)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", metavar="A", help="a commit")
    parser.add_argument("after", metavar="B", nargs="?", help="another one (default: the working tree)")
    parser.add_argument("--minutes", type=float, default=5.0, help="how long rounds are begun (default 5)")
    parser.add_argument(
        "--tolerance", type=float, default=0.03, help="a change up to this share is none (default 0.03)"
    )
    parser.add_argument("--out", type=Path, default=Path(), metavar="FOLDER")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        try:
            commits = [git("rev-parse", "--short", f"{name}^{{commit}}") for name in (args.before, args.after) if name]
            trees = [stack.enter_context(checked_out(commit)) for commit in commits]
        except subprocess.CalledProcessError as error:
            parser.error(error.stderr.strip())
        if args.after is None:
            commits.append("the working tree")
            trees.append(ROOT)
        sides = []
        for commit, tree in zip(commits, trees, strict=True):
            base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stepserve-turns-")))
            sides.append(Side(stack.enter_context(stepserve(base, tree=tree)), base, commit))
        for side in sides:
            stack.callback(side.close)
            side.prepare()
        until, rounds = time.monotonic() + 60 * args.minutes, 0
        while rounds < _FEWEST or time.monotonic() < until:
            for side in sides if rounds % 2 else reversed(sides):
                side.measure()
            rounds += 1
    turns = uuid4().hex
    before, after = (side.record(turns) for side in sides)
    before.write(args.out / "A.json")
    after.write(args.out / "B.json")
    found = changes(before, after, args.tolerance)
    print(f"{rounds} rounds")
    print(report(before, after, found))
    return int(any(each.verdict == "worse" for each in found))


if __name__ == "__main__":
    sys.exit(main())
