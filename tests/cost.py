"""What tests cost in seconds of a processor, with all processes that they start: `python -m tests.cost FILES…`.

Wall time says little where several runs share a machine. The first process is the parent of all others, of those too
whose own parent has ended, so that nobody's time is lost. It prints a line for each module, the dearest first, and as
many of the dearest tests.
"""

import argparse
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest

_FILE_VARIABLE = "TESTS_COST_FILE"
_ROOT_VARIABLE = "TESTS_COST_ROOT"
_SET_CHILD_SUBREAPER = 36
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def spent_s(pid: int) -> float:
    """Processor time of a process, its descendants, and those that have ended and were waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = [
            int(child)
            for thread in Path(f"/proc/{pid}/task").iterdir()
            for child in (thread / "children").read_text().split()
        ]
    except OSError:  # has ended
        return 0.0
    return sum(int(ticks) for ticks in fields[11:15]) / _TICKS_PER_S + sum(spent_s(child) for child in children)


class _Costs:
    """A pytest plugin that writes a line after each test: its cost and its name."""

    def __init__(self, root: int, file: Path) -> None:
        self._root = root
        self._file = file
        self._before = spent_s(root)
        self._write(self._before, "start")

    def pytest_collection_finish(self) -> None:
        self._turn("collection")

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self._turn(nodeid)

    def pytest_unconfigure(self) -> None:
        self._turn("end")

    def _turn(self, name: str) -> None:
        now = spent_s(self._root)
        self._write(now - self._before, name)
        self._before = now

    def _write(self, cost_s: float, name: str) -> None:
        with self._file.open("a") as file:
            file.write(f"{cost_s:.2f} {name}\n")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_Costs(int(os.environ[_ROOT_VARIABLE]), Path(os.environ[_FILE_VARIABLE])))


def _run(arguments: list[str], file: Path) -> int:
    """Waits for pytest and for every orphan that it leaves; returns pytest's status."""
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    environment = {**os.environ, _ROOT_VARIABLE: str(os.getpid()), _FILE_VARIABLE: str(file)}
    running = subprocess.Popen([sys.executable, "-m", "pytest", "-p", "tests.cost", *arguments], env=environment)
    signal.signal(signal.SIGINT, lambda *_: None)  # pytest gets it too, and ends by it
    while True:
        pid, status = os.wait()
        if pid == running.pid:
            running.returncode = os.waitstatus_to_exitcode(status)
            return running.returncode


def _report(file: Path, most: int) -> None:
    tests: dict[str, float] = defaultdict(float)
    modules: dict[str, float] = defaultdict(float)
    for line in file.read_text().splitlines():
        cost, name = line.split(" ", 1)
        tests[name] += float(cost)
        modules[name.partition("::")[0]] += float(cost)
    print(f"\n{sum(modules.values()):10.2f} s of a processor in all")
    for counted in (modules, tests):
        print()
        for name, cost_s in sorted(counted.items(), key=lambda item: -item[1])[:most]:
            print(f"{cost_s:10.2f} {name}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cost", description=__doc__)
    parser.add_argument("--most", type=int, default=50, metavar="N", help="how many modules and tests to name")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="also keep a line for each test in FILE")
    options, arguments = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        file = options.keep or Path(folder) / "costs"
        status = _run(arguments, file)
        _report(file, options.most)
    return status


if __name__ == "__main__":
    sys.exit(main())
