"""What keeps a server's files from other users of the machine: modes of its folders, and of what is made in them."""

import os
import socket
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_OTHERS = 0o077


def make_private() -> None:
    """From now on what this process and its children make is for this user alone. Call it before any thread starts."""
    os.umask(_OTHERS)


def open_to_others(paths: Iterable[Path]) -> list[Path]:
    """Those that are there and that others may enter, read or write. A link is what it points to."""
    found = []
    for path in paths:
        with suppress(OSError):
            if path.stat().st_mode & _OTHERS:
                found.append(path)
    return found


def tighten(path: Path) -> None:
    """Takes everything from everybody else, if it is a folder or a file of this user's.

    A link, what belongs to another user, a folder that many share (sticky, as /tmp is) and a file with other names
    (hard links) stay as they are; so does what is not there.
    """
    try:
        # O_NONBLOCK: a pipe in the place of a file is not waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        facts = os.fstat(descriptor)
        is_folder = stat.S_ISDIR(facts.st_mode)
        mine = facts.st_uid == os.geteuid() and (is_folder or (stat.S_ISREG(facts.st_mode) and facts.st_nlink == 1))
        if mine and facts.st_mode & _OTHERS and not facts.st_mode & stat.S_ISVTX:
            with suppress(OSError):  # a file system without modes
                os.fchmod(descriptor, stat.S_IMODE(facts.st_mode) & ~_OTHERS)
    finally:
        os.close(descriptor)


def check_socket_folder(folder: Path) -> None:
    """Raises PermissionError unless it is a folder of this user that nobody else can enter."""
    facts = folder.lstat()
    if stat.S_ISLNK(facts.st_mode):
        raise PermissionError(f"{folder}, where the sockets lie, is a symbolic link: remove it")
    if facts.st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to another user")
    if facts.st_mode & _OTHERS:
        raise PermissionError(
            f"{folder}, where the sockets lie, is open to other users and cannot be closed: chmod 700"
        )


def reserve_socket(path: Path) -> None:
    """Leaves a dead socket for this user alone in its place: uvicorn gives its own the modes of what was there."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as placeholder:
        placeholder.bind(str(path))
    path.chmod(0o600)
