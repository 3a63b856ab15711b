"""From nothing to ready, against bare `vllm serve` with the same model and flags: `python -m benchmarks.start`.

Stepserve starts on a base directory that it has served from before, which is what a restart of the machine meets; the
very first start, which also copies the demo checkpoint and computes its reference, is told apart. Both take turns.
"""

import argparse
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median

from benchmarks.processes import bare_vllm, stepserve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stepserve-bench-") as folder:
        base = Path(folder)
        first_s = ready_s(stepserve(base))
        ready_s(bare_vllm())  # what the first start reads from the disk, the others find in memory
        warm, bare = [], []
        for _ in range(args.rounds):
            warm.append(ready_s(stepserve(base)))
            bare.append(ready_s(bare_vllm()))
    print(f"first start to /readyz: {first_s:.1f} s")
    print(f"warm start to /readyz: {median(warm):.1f} s; vllm serve to /health: {median(bare):.1f} s")
    print(f"ratio, median of {args.rounds} rounds: {median(a / b for a, b in zip(warm, bare, strict=True)):.2f}")


def ready_s(server: AbstractContextManager[str]) -> float:
    """How long it takes to come up; it is stopped again."""
    started = time.perf_counter()
    with server:
        return time.perf_counter() - started


if __name__ == "__main__":
    main()
