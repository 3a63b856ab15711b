"""Whether the event loop of a supervised process runs: it writes a byte a second to a pipe that its supervisor reads.

A process that is stopped, or held up by one piece of work, looks alive: it has its sockets, and the kernel takes
connections for it. A pipe needs no file, no port and no database, so nothing else is mistaken for a frozen process.
"""

import asyncio
import contextlib
import faulthandler
import os
import signal
from types import TracebackType
from typing import Self

DUMP_SIGNAL = signal.SIGUSR2
"""Makes a process that beats write the stacks of its threads to standard error; others it ends."""

_VARIABLE = "STEPSERVE_HEARTBEAT_FD"
_STOOD_STILL = "STEPSERVE_STOOD_STILL"
_EVERY_S = 1.0
_PIPE_BYTES = 64 * 1024


async def beat() -> None:
    """Shows the supervisor that this event loop runs, until cancelled; returns at once where nobody asked for it."""
    named = os.environ.pop(_VARIABLE, None)
    if named is None:
        return
    descriptor = int(named)
    os.set_inheritable(descriptor, False)
    faulthandler.register(DUMP_SIGNAL, all_threads=True)
    while True:
        try:
            os.write(descriptor, b".")
        except BlockingIOError:
            pass  # the supervisor itself is stopped, and what it finds when it goes on is enough
        except OSError:
            return  # it is gone
        await asyncio.sleep(_EVERY_S)


def told_of(frozen_pid: int | None) -> dict[str, str]:
    """For the environment of the process that is started in the place of one that stood still."""
    return {} if frozen_pid is None else {_STOOD_STILL: str(frozen_pid)}


def stood_still() -> int | None:
    """The process id of the one before this one, where the supervisor ended it because it stood still. Asked once."""
    named = os.environ.pop(_STOOD_STILL, None)
    return None if named is None else int(named)


class Pulse:
    """The supervisor's end of the pipe to one process; a context that closes it."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.handed_over()
        os.close(self._reader)

    @property
    def descriptor(self) -> int:
        """The end that the process inherits, under this number."""
        return self._writer

    @property
    def variable(self) -> dict[str, str]:
        """What the process's environment needs."""
        return {_VARIABLE: str(self._writer)}

    def handed_over(self) -> None:
        """Closes the process's end here, once the process has it."""
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1

    async def stops(self, limit_s: float) -> None:
        """Returns when no byte has come for `limit_s` after the first one: a start may take as long as it takes.

        Only time in which this event loop ran itself counts, so a machine or a supervisor that was stopped accuses
        nobody.
        """
        tick_s = min(_EVERY_S, limit_s / 4)
        silent_s: float | None = None
        while silent_s is None or silent_s < limit_s:
            await asyncio.sleep(tick_s)
            if self._came():
                silent_s = 0.0
            elif silent_s is not None:
                silent_s += tick_s

    def _came(self) -> bool:
        with contextlib.suppress(BlockingIOError):
            return bool(os.read(self._reader, _PIPE_BYTES))
        return False
