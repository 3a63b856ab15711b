"""Files that the server writes to: its own, with one name each, so that no write goes through a link to another one."""

import errno
import os
import stat
from pathlib import Path


class LinkedFile(OSError):
    """What lies at the path is a link (symbolic or hard), a pipe or a folder, and not a file of the server's alone."""

    def __init__(self, path: Path) -> None:
        super().__init__(errno.ELOOP, "another name leads to the same file, or it is not a file: remove it", str(path))


def is_own(path: Path) -> bool:
    """Whether a file lies there that no link leads to; False also when nothing does. Blocks."""
    try:
        facts = path.lstat()
    except OSError:
        return False
    return _is_alone(facts)


def open_own(path: Path, flags: int) -> int:
    """A descriptor of the file. Blocks. Raises LinkedFile, OSError when it cannot be opened; nothing was written."""
    try:
        # O_NONBLOCK: a pipe in the place of a file is not waited for.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:  # a symbolic link, a pipe that nobody reads
            raise LinkedFile(path) from error
        raise
    if not _is_alone(os.fstat(descriptor)):
        os.close(descriptor)
        raise LinkedFile(path)
    return descriptor


def remove_links(folder: Path) -> None:
    """What lies below the folder and is neither a folder nor a file of its own loses its name there. Blocks.

    Links are unlinked and never followed: what they lead to stays as it is. Raises OSError.
    """
    for root, folders, names in os.walk(folder):
        for path in (Path(root, name) for name in (*folders, *names)):
            try:
                facts = path.lstat()
            except FileNotFoundError:  # somebody else took it away meanwhile
                continue
            if not stat.S_ISDIR(facts.st_mode) and not _is_alone(facts):
                path.unlink(missing_ok=True)


def _is_alone(facts: os.stat_result) -> bool:
    return stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1
