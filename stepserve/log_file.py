"""A log file that several processes append to and any of them turns over when it is too large."""

import fcntl
import os
import shutil
from pathlib import Path

_LOCK_NAME = ".rotate.lock"


class LogFile:
    """Appends whole lines; may block as long as the disk does, so it belongs in a thread of its own.

    At `max_bytes` the file becomes `<name>.1`, `.1` becomes `.2`, up to `backups`. With `raw_writers`, processes that
    hold the file open and know nothing of this (the engine's output), its content is copied away and it is emptied in
    place instead; what they write in that moment may be lost.
    """

    def __init__(self, path: Path, max_bytes: int, backups: int, *, raw_writers: bool = False) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._backups = backups
        self._raw_writers = raw_writers
        self._descriptor: int | None = None
        self._inode = 0

    def append(self, lines: bytes) -> None:
        """One write, which other processes' lines never come between. Raises OSError."""
        descriptor = self._current()
        if os.fstat(descriptor).st_size + len(lines) > self._max_bytes:
            self.turn_over(len(lines))
            descriptor = self._current()
        while lines:
            lines = lines[os.write(descriptor, lines) :]

    def turn_over(self, more_bytes: int = 0) -> None:
        """Turns the file over if it has no room for `more_bytes`, unless another process was faster. Raises OSError."""
        with (self._path.parent / _LOCK_NAME).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                size = self._path.stat().st_size
            except FileNotFoundError:
                return
            if not size or size + more_bytes <= self._max_bytes:
                return
            for number in range(self._backups, 1, -1):
                younger = self._backup(number - 1)
                if younger.exists():
                    younger.replace(self._backup(number))
            if self._raw_writers:
                if self._backups:
                    shutil.copyfile(self._path, self._backup(1))
                os.truncate(self._path, 0)
            elif self._backups:
                self._path.replace(self._backup(1))
            else:
                self._path.unlink()

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _backup(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _current(self) -> int:
        """The descriptor of what has the name now: another process, or a person, may have moved the file away."""
        if self._descriptor is not None:
            try:
                if self._path.stat().st_ino == self._inode:
                    return self._descriptor
            except FileNotFoundError:
                pass
            self.close()
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._inode = os.fstat(self._descriptor).st_ino
        return self._descriptor
