"""One server a base directory: who holds the lock file may write there."""

import fcntl
import os
from typing import TextIO

from stepserve.paths import Layout


class BaseInUse(Exception):
    """`holder` is the process that has the lock, or `unknown`."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


def hold(layout: Layout) -> TextIO:
    """The lock, held until the file is closed or the process ends, however it does. Raises BaseInUse, OSError."""
    lock = layout.lock_file.open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        lock.close()
        raise BaseInUse(holder) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock
