"""From the command to the first answer, against bare `vllm serve` with the same model and flags.

    python -m benchmarks.start [--rounds 5] [--cold]

Stepserve starts on a base directory that it has served from before, which is what a restart of the machine meets; the
very first start, which also copies the demo checkpoint and computes its reference, is told apart. Both take turns.

Told are the seconds until the port takes a connection, those until the first answer of a model, and the processor time
of all processes until then. With `--cold` neither finds bytecode, as after an installation.
"""

import argparse
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from statistics import median

import httpx
import psutil

from benchmarks.processes import MODEL_ID, bare_vllm, free_port, stepserve

_QUESTION = {"model": MODEL_ID, "messages": [{"role": "user", "content": "What is 17+25?"}], "temperature": 0}
_BYTECODE = "PYTHONPYCACHEPREFIX"

Server = Callable[[int], AbstractContextManager[str]]


@dataclass(frozen=True, slots=True)
class Start:
    accepts_s: float
    answers_s: float
    processor_s: float

    def __str__(self) -> str:
        return (
            f"takes connections after {self.accepts_s:.1f} s, first answer after {self.answers_s:.1f} s,"
            f" {self.processor_s:.1f} s of a processor"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cold", action="store_true", help="each start compiles what it imports")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="stepserve-bench-") as folder:
        base = Path(folder)

        def ours(port: int) -> AbstractContextManager[str]:
            return stepserve(base, port=port)

        def bare(port: int) -> AbstractContextManager[str]:
            return bare_vllm(port=port)

        measure = partial(measured, cold=args.cold)
        print(f"first start: {measure(ours)}", flush=True)
        measure(bare)  # what the first start reads from the disk, the others find in memory
        rounds = [(measure(ours), measure(bare)) for _ in range(args.rounds)]
    print(f"stepserve up: {middle([each for each, _ in rounds])}")
    print(f"vllm serve:   {middle([each for _, each in rounds])}")
    ratios = [Start(*(a / b for a, b in zip(astuple(one), astuple(two), strict=True))) for one, two in rounds]
    ratio = middle(ratios)
    print(f"ratios, medians of {args.rounds} rounds: {ratio.answers_s:.2f} to the first answer,", end=" ")
    print(f"{ratio.processor_s:.2f} of the processor time")


def middle(starts: list[Start]) -> Start:
    return Start(*map(median, zip(*map(astuple, starts), strict=True)))


def measured(server: Server, *, cold: bool = False) -> Start:
    """Starts it, asks it once, and stops it."""
    port, accepted = free_port(), threading.Event()
    with ExitStack() as stack:
        if cold:
            os.environ[_BYTECODE] = stack.enter_context(tempfile.TemporaryDirectory(prefix="stepserve-bytecode-"))
            stack.callback(os.environ.pop, _BYTECODE)
        accepts_s: list[float] = []
        started_s = time.perf_counter()

        def knock() -> None:
            while not accepted.wait(0.02):
                with socket.socket() as client:
                    if client.connect_ex(("127.0.0.1", port)) == 0:
                        accepts_s.append(time.perf_counter() - started_s)
                        return

        knocking = threading.Thread(target=knock, daemon=True)
        knocking.start()
        url = stack.enter_context(server(port))
        answer = httpx.post(f"{url}/v1/chat/completions", json=_QUESTION, timeout=120, trust_env=False)
        answers_s = time.perf_counter() - started_s
        told = answer.raise_for_status().json()["choices"][0]["message"]["content"]
        if told != "42":
            raise RuntimeError(f"the first answer is wrong: {told}")
        processor_s = sum(sum(each.cpu_times()[:4]) for each in psutil.Process().children(recursive=True))
        accepted.set()
        knocking.join()
        return Start(accepts_s[0], answers_s, processor_s)


if __name__ == "__main__":
    main()
