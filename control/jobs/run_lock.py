"""One writer a run: a lock in its folder that the kernel lets go when its holder dies, however it dies."""

import fcntl
import logging
from pathlib import Path
from types import TracebackType
from typing import Self

LOCK_FILE = ".lock"

_log = logging.getLogger(__name__)


class RunIsLocked(Exception):
    """Another attempt at this job is still alive on this machine."""


class RunLock:
    """Guards against a worker that was thought dead (a machine asleep, a stopped process) and goes on writing."""

    def __init__(self, run_dir: Path) -> None:
        self._file = (run_dir / LOCK_FILE).open("ab")

    def __enter__(self) -> Self:
        """Raises RunIsLocked; never waits."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise RunIsLocked from None
        except OSError:  # a file system without locks
            _log.warning("%s cannot be locked", self._file.name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
