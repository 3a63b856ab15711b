"""One server a base directory: who holds the lock file may write there."""

import fcntl
import os
from pathlib import Path
from typing import TextIO

from stepserve.paths import Layout


class BaseInUse(Exception):
    """`holder` is the process that has the lock, or `unknown`."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


def hold(layout: Layout) -> TextIO:
    """The lock, held until the file is closed or the process ends, however it does. Raises BaseInUse, OSError."""
    if layout.former_lock_file.exists():
        _lock(layout.former_lock_file).close()  # a server from before the project's name changed may still be running
        layout.former_lock_file.unlink()
    lock = _lock(layout.lock_file)
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _lock(path: Path) -> TextIO:
    """Raises BaseInUse, OSError."""
    lock = path.open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        lock.close()
        raise BaseInUse(holder) from error
    return lock
