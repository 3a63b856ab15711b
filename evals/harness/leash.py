"""Runs one program on a leash: a script of its own, which imports Python's library alone.

    stdin   one line: {"command", "environment", "folder", "limits"}; then it stays open while the program may run
    exit    the program's own code, 128 + a signal's number, or 127 where it cannot be started

When stdin closes, or the process that started this one is gone, the program and all that it has started are killed:
control may be killed at any moment, and must not leave behind what asks for its relay. What the program starts cannot
get away by a process group of its own: orphans become children of this process (a subreaper of Linux).
"""

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import sys
from pathlib import Path
from typing import NoReturn

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_CANNOT_START = 127
_SIGNALLED = 128
_LOOK_EVERY_MS = 1000

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> int:
    starter = os.getppid()
    order = json.loads(_first_line())
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    program = os.fork()
    if program == 0:
        _become(order)
    with contextlib.suppress(OSError):  # it does so itself: whoever comes first
        os.setpgid(program, program)
    _wait(program, starter)
    code = _kill(program)
    _kill_rest()
    return _SIGNALLED + signal.SIGKILL if code is None else code


def _first_line() -> bytes:
    """Not by a buffer: whether more comes is what tells that the starter lives."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1)
        if not piece:
            raise SystemExit(_CANNOT_START)
        line += piece
    return line


def _become(order: dict[str, object]) -> NoReturn:
    command, environment, limits = order["command"], order["environment"], order["limits"]
    assert isinstance(command, list)
    assert isinstance(environment, dict)
    assert isinstance(limits, dict)
    try:
        os.setpgid(0, 0)
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        for name, most in limits.items():
            kind = getattr(resource, name)
            _, hard = resource.getrlimit(kind)
            allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (allowed, allowed))
        os.chdir(str(order["folder"]))
        os.execve(command[0], command, environment)
    except (OSError, ValueError) as error:
        os.write(2, f"{command[0]} cannot be started: {error}\n".encode())
    os._exit(_CANNOT_START)


def _wait(program: int, starter: int) -> None:
    """Returns when the program has ended, or may not go on."""
    ended = os.pidfd_open(program)
    watch = select.poll()
    watch.register(0, select.POLLIN | select.POLLHUP)
    watch.register(ended, select.POLLIN)
    while True:
        ready = [descriptor for descriptor, _ in watch.poll(_LOOK_EVERY_MS)]
        if ended in ready or os.getppid() != starter:
            return
        if 0 in ready and not os.read(0, 1024):
            return


def _kill(program: int) -> int | None:
    """Ends the program's group. The program's own exit code; None where it had to be killed."""
    found, status = os.waitpid(program, os.WNOHANG)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(program, signal.SIGKILL)
    if found == 0:
        os.waitpid(program, 0)
        return None
    return _SIGNALLED + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _kill_rest() -> None:
    """What was started in a group of its own and is a child of this process now, generation by generation."""
    while children := _children():
        for child in children:
            with contextlib.suppress(ProcessLookupError, ChildProcessError, PermissionError):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def _children() -> list[int]:
    try:
        found = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii")
    except OSError:  # a kernel without that file
        return []
    return [int(word) for word in found.split()]


if __name__ == "__main__":
    sys.exit(main())
