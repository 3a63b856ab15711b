"""The last lines of a log, and those that come: never the whole file, and through its turning over."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from control.errors import LogUnreadable

_BLOCK_BYTES = 64 * 1024
LONGEST_READ_BYTES = 8 * 1024 * 1024
_POLL_S = 0.25


def last_lines(path: Path, count: int, end: int | None = None) -> list[str]:
    """At most `count` lines, oldest first, from the file (up to `end`, in bytes) and the ones before it. Blocks.

    At most 8 MiB of each are read. A log that nobody has written yet has none. Raises LogUnreadable.
    """
    found: list[str] = []
    number = 0
    while len(found) < count:
        file = path if number == 0 else path.with_name(f"{path.name}.{number}")
        opened = _open(file)
        if opened is None:
            return found
        with opened:
            found = _lines_at_end(opened, count - len(found), end if number == 0 else None) + found
        number += 1
    return found


async def follow(path: Path, count: int) -> AsyncIterator[str | None]:
    """The last lines, then each as it is written; None about four times a second while there is none."""
    watched = _Watched(path)
    try:
        end = await asyncio.to_thread(watched.open_at_end)
        for line in await asyncio.to_thread(last_lines, path, count, end):
            yield line
        while True:
            lines = await asyncio.to_thread(watched.new_lines)
            for line in lines:
                yield line
            if not lines:
                yield None
                await asyncio.sleep(_POLL_S)
    finally:
        watched.close()


class _Watched:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""

    def open_at_end(self) -> int:
        """Where the last whole line ends: what comes after it is for `new_lines`."""
        self._file = _open(self._path)
        if self._file is None:
            return 0
        size = self._file.seek(0, os.SEEK_END)
        start = self._file.seek(max(0, size - _BLOCK_BYTES))
        return self._file.seek(start + self._file.read(size - start).rfind(b"\n") + 1)

    def new_lines(self) -> list[str]:
        """Whole lines only. Another file under the name is read once the old one is at its end."""
        file = self._file
        if file is None:
            self._file = file = _open(self._path)
            if file is None:
                return []
        if os.fstat(file.fileno()).st_size < file.tell():
            file.seek(0)  # emptied in place
        data = self._rest + file.read(LONGEST_READ_BYTES)
        if not data.endswith(b"\n") and b"\n" not in data[len(self._rest) :]:
            self._rest = data
            if self._moved(file):
                self.close()
            return []
        whole, _, self._rest = data.rpartition(b"\n")
        return whole.decode(errors="replace").split("\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _moved(self, file: BinaryIO) -> bool:
        try:
            return self._path.stat().st_ino != os.fstat(file.fileno()).st_ino
        except FileNotFoundError:
            return True


def _open(path: Path) -> BinaryIO | None:
    """None when it is not there. Nothing but a plain file is opened: a pipe would hang whoever reads it."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise LogUnreadable(f"{path.name} is not a plain file")
        return path.open("rb", buffering=0)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LogUnreadable(f"{path.name} cannot be read: {error.strerror}") from error


def _lines_at_end(file: BinaryIO, count: int, end: int | None) -> list[str]:
    position = file.seek(0, os.SEEK_END) if end is None else end
    lowest = max(0, position - LONGEST_READ_BYTES)
    data = b""
    while position > lowest and data.count(b"\n") <= count:
        start = max(lowest, position - _BLOCK_BYTES)
        file.seek(start)
        data = file.read(position - start) + data
        position = start
    lines = data.decode(errors="replace").splitlines()
    return lines[-count:]
