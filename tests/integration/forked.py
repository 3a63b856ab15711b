"""Programs that are started many times: forked from a process that has imported them, so that each begins at once.

That a program starts afresh, with nothing imported, is tested where a start is the point (programs.python).
"""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "control.__main__",
        "stepserve.client.cli",
        "tests.integration.fake_kubernetes",
        "tests.integration.forked_operator",
    ]
)
_LIMIT_S = 240.0

Ended = subprocess.CompletedProcess[str]


class Forked:
    """`main` in a process of its own, with this environment and no other; begun when this is made."""

    def __init__(self, main: Callable[[], object], environment: Mapping[str, str]) -> None:
        self._process = CONTEXT.Process(target=_begin, args=(main, dict(environment)), daemon=True)
        self._process.start()

    def kill(self) -> None:
        self._process.kill()

    def send(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    async def gone(self) -> None:
        await asyncio.to_thread(self._process.join)

    def wait(self, limit_s: float | None = None) -> int | None:
        """The exit code; None where it has not ended by then."""
        self._process.join(limit_s)
        return self._process.exitcode


@dataclass(frozen=True, slots=True)
class Command:
    """A program's main function as a shell would start it: in a folder, with arguments, its output in files."""

    main: Callable[[], object]
    name: str
    arguments: tuple[str, ...]
    folder: Path
    out: Path
    err: Path

    def __call__(self) -> None:
        os.chdir(self.folder)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, file in enumerate((Path(os.devnull), self.out, self.err)):
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(descriptor, number)
            os.close(descriptor)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  # multiprocessing has put another file in its place
        sys.argv = [self.name, *self.arguments]
        self.main()


def run(
    main: Callable[[], object], name: str, arguments: tuple[str, ...], folder: Path, environment: Mapping[str, str]
) -> Ended:
    """Waits for its end, as `subprocess.run` does."""
    with tempfile.TemporaryDirectory() as held:
        out, err = Path(held) / "out", Path(held) / "err"
        process = Forked(Command(main, name, arguments, folder, out, err), environment)
        code = process.wait(_LIMIT_S)
        if code is None:
            process.kill()
            raise subprocess.TimeoutExpired([name, *arguments], _LIMIT_S)
        return Ended([name, *arguments], code, out.read_text(), err.read_text())


def _begin(main: Callable[[], object], environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    main()
