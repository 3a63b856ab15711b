"""What a process of ours does for itself at its start: it follows its parent, and takes what it needs."""

import contextlib
import gc
import os
import resource
import signal
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path

_INTERVAL_S = 1.0


def follow_parent(number: signal.Signals, parent_pid: int | None = None) -> None:
    """Sends this process `number` within about a second of its parent's end, however that ended. `parent_pid`: the one
    that it had at its beginning; None: the one that it has now.

    A thread that looks, not Linux's parent-death signal: that one fires when the parent's *thread* ends.
    """
    name = "stepserve-follow-parent"
    if any(thread.name == name for thread in threading.enumerate()):
        return
    threading.Thread(target=_watch, args=(parent_pid or os.getppid(), number), name=name, daemon=True).start()


def allow_many_connections() -> None:
    """Raises the limit of open files to what this user may have: every connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _watch(parent: int, number: signal.Signals) -> None:
    while os.getppid() == parent:
        time.sleep(_INTERVAL_S)
    os.kill(os.getpid(), number)


def close_descriptors_but(kept: Collection[int]) -> None:
    """For a fork, which shall hold nothing of its parent's open."""
    for path in list(Path("/proc/self/fd").iterdir()):
        if int(path.name) not in kept:
            with contextlib.suppress(OSError):  # the one that listed them is closed already
                os.close(int(path.name))


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """While imports make hundreds of thousands of objects that stay. A quarter of what they take goes into looking at
    those again and again.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def spare_collector() -> None:
    """Tells Python's garbage collector to leave alone what there is now (what was imported, which stays), and to look
    at all the rest seldom: each look holds up everything that goes on, for tens of milliseconds.
    """
    gc.freeze()
    gc.set_threshold(5_000, 20, 50)
