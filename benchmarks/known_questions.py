"""What it costs to find a question among a million known ones: `nice python -m benchmarks.known_questions`.

The index is filled in the order of its pages, which takes minutes and not an hour; then 2,000 questions are looked up
in it and added. The same with an empty one.
"""

import argparse
import sqlite3
import tempfile
import time
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil

from benchmarks.invented_questions import question
from datagen.similarity import BANDS, Fingerprint, SimilarityIndex

_PROBES = 2000
_PARTS = 16


def filled(path: Path, count: int) -> None:
    """An index of so many documents that are like no other, as `SimilarityIndex.add` would leave it."""
    with SimilarityIndex(path):
        pass  # its tables
    chance = np.random.default_rng(1)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA synchronous=OFF")
        documents = ((number, str(number), number, f"{number:030d}") for number in range(1, count + 1))
        database.executemany("INSERT INTO document VALUES (?, ?, ?, ?)", documents)
        edges = np.linspace(-(2**63), 2**63 - 1024, _PARTS + 1)
        for start, end in pairwise(edges):
            rows = count * BANDS // _PARTS
            bands = np.sort(chance.integers(int(start), int(end), rows)).tolist()
            database.executemany(
                "INSERT OR IGNORE INTO bucket VALUES (?, ?)",
                zip(bands, chance.integers(1, count + 1, rows).tolist(), strict=True),
            )
            database.commit()


def measure(folder: Path, known: int) -> None:
    asked = [question(5, number) for number in range(_PROBES)]
    for count in (0, known):
        path = folder / f"{count}.sqlite"
        filled(path, count)
        with SimilarityIndex(path) as index:
            wall, cpu = time.perf_counter(), time.process_time()
            for start in range(0, _PROBES, 50):
                with index.at_once():
                    for number, text in enumerate(asked[start : start + 50], start):
                        mark = Fingerprint(text)
                        index.nearest(mark, same_numbers=False)
                        index.add([(f"probe {number}", mark)])
            cpu_ms, wall_ms = (
                1000 * (now - then) / _PROBES for now, then in ((time.process_time(), cpu), (time.perf_counter(), wall))
            )
            print(
                f"among {count} known questions one is looked up and added in {cpu_ms:.2f} ms of processor time,"
                f" {wall_ms:.2f} ms; index of {path.stat().st_size / 1e6:.0f} MB, process of"
                f" {psutil.Process().memory_info().rss / 1e6:.0f} MB",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--known", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the index is made (default: the temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stepserve-bench-", dir=args.folder) as folder:
        measure(Path(folder), args.known)


if __name__ == "__main__":
    main()
