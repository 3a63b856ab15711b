"""Runs one untrusted program where it can harm nothing: a script of its own, which imports Python's library alone.

    stdin   {"program", "nonce", "python", "readable", "limits"}
    stdout  {"passed", "detail"}, one line; exit code 3 and a reason on stderr where no sandbox can be had

Namespaces of Linux keep it from the network, other processes and the host's files: it sees Python, the system's
libraries and an empty /tmp in memory. Resource limits bound memory, processor time, processes and files; a seccomp
filter takes away system calls that no honest program needs. Root starts it as an unused user id; anybody else in a user
namespace. Any step that fails ends it before the program runs.
"""

import ctypes
import errno
import fcntl
import json
import os
import platform
import random
import resource
import select
import signal
import struct
import sys
import time
from typing import Any, NoReturn

NO_SANDBOX = 3
_RESULT_FD = 3
_MOST_DETAIL_BYTES = 2000

_NEW_NAMESPACES = 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000  # mount, pid, net, ipc, uts
_NEW_USER = 0x10000000
_ALL_NAMESPACE_FLAGS = 0x7E020000
_MS_BIND, _MS_REC, _MS_PRIVATE, _MS_NOSUID, _MS_NODEV = 4096, 16384, 1 << 18, 2, 4
_ATTR_READ_ONLY, _ATTR_NOSUID, _AT_RECURSIVE, _AT_FDCWD = 1, 2, 0x8000, -100
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 1, 38, 22
_MOUNT_SETATTR = 442

# System calls by machine: (audit architecture, clone, socket, pivot_root, those refused).
_CALLS: dict[str, tuple[int, int, int, int, tuple[int, ...]]] = {
    "x86_64": (
        0xC000003E, 56, 41, 155,
        (101, 165, 166, 155, 161, 167, 169, 175, 176, 246, 248, 249, 250, 272, 298, 304, 308, 310, 311, 313, 321, 323),
    ),
    "aarch64": (
        0xC00000B7, 220, 198, 41,
        (117, 40, 39, 41, 51, 224, 142, 105, 106, 104, 217, 218, 219, 97, 241, 265, 268, 270, 271, 273, 280, 282),
    ),
}  # fmt: skip
_REFUSED_EVERYWHERE = (425, 426, 427, 428, 429, 430, 431, 432, 433, 442)  # io_uring, the new mount calls
_CLONE3 = 435

_HARNESS = """
import json, os, sys
def main():
    request = json.loads(sys.stdin.buffer.read())
    nonce, program = request["nonce"], request["program"]
    quiet = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(quiet, number)
    del request
    try:
        exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"[:500]
    else:
        said = "passed"
    os.write(3, f"{nonce} {said}".encode("utf-8", "replace"))
    os._exit(0)
main()
"""

_libc = ctypes.CDLL(None, use_errno=True)


class NoSandbox(Exception):
    pass


def main() -> int:
    request = json.loads(sys.stdin.buffer.read())
    try:
        calls = _CALLS.get(platform.machine())
        if calls is None or sys.platform != "linux":
            raise NoSandbox(f"not on {sys.platform} {platform.machine()}")
        is_root = os.geteuid() == 0
        _unshare(is_root)
        _build_root(request["readable"], calls[3])
        print(json.dumps(_in_first_process(request, calls, is_root)))
    except (NoSandbox, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return NO_SANDBOX
    return 0


def _unshare(is_root: bool) -> None:
    user, group = os.getuid(), os.getgid()
    _call("unshare", _libc.unshare(_NEW_NAMESPACES | (0 if is_root else _NEW_USER)))
    if not is_root:
        for name, content in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
                file.write(content)


def _build_root(readable: list[str], pivot_root: int) -> None:
    """A root of its own over /proc, which is not needed any more: read-only parts of the host, and an empty /tmp."""
    root = "/proc"
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("none", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
    for path in readable:
        _show(path, root + path)
    os.mkdir(f"{root}/dev")
    _show("/dev/null", f"{root}/dev/null", read_only=False)
    os.mkdir(f"{root}/tmp")
    _mount("none", f"{root}/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, "size=64m,nr_inodes=2048,mode=1777")
    os.chdir(root)
    _call("pivot_root", _libc.syscall(pivot_root, b".", b"."))
    _call("umount2", _libc.umount2(b".", _MNT_DETACH))
    _protect("/", 0)
    os.chdir("/tmp")


def _show(path: str, at: str, *, read_only: bool = True) -> None:
    os.makedirs(os.path.dirname(at), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), at)
        return
    if os.path.isdir(path):
        os.makedirs(at, exist_ok=True)
    else:
        os.close(os.open(at, os.O_CREAT | os.O_WRONLY, 0o444))
    _mount(path, at, None, _MS_BIND | _MS_REC)
    if read_only:
        _protect(at, _AT_RECURSIVE)


def _protect(path: str, flags: int) -> None:
    attributes = struct.pack("QQQQ", _ATTR_READ_ONLY | _ATTR_NOSUID, 0, 0, 0)
    _call("mount_setattr", _libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(path), flags, attributes, 32))


def _in_first_process(request: dict[str, Any], calls: tuple[Any, ...], is_root: bool) -> dict[str, Any]:
    """Forks the namespace's first process, with whose end every other one in it ends."""
    reader, writer = os.pipe()
    first = os.fork()
    if first == 0:
        os.close(reader)
        try:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            outcome = _supervise(request, calls, is_root)
        except BaseException as error:  # noqa: BLE001  (a child must never run its parent's code)
            outcome = {"no_sandbox": f"{type(error).__name__}: {error}"}
        os.write(writer, json.dumps(outcome).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        said = stream.read()
    os.waitpid(first, 0)
    if not said:
        raise NoSandbox("its first process died")
    told: dict[str, Any] = json.loads(said)
    if "no_sandbox" in told:
        raise NoSandbox(told["no_sandbox"])
    return told


def _supervise(request: dict[str, Any], calls: tuple[Any, ...], is_root: bool) -> dict[str, Any]:
    limits = request["limits"]
    source, result = os.pipe(), os.pipe()
    ready = os.pipe()
    child = os.fork()
    if child == 0:
        _become_program(request["python"], limits, calls, is_root, source[0], result[1], ready[1])
    os.close(source[0])
    os.close(result[1])
    os.close(ready[1])
    trouble = os.read(ready[0], _MOST_DETAIL_BYTES)  # closed by the exec
    if trouble:
        return {"no_sandbox": trouble.decode()}
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    deadline = time.monotonic() + limits["wall_s"]
    said = _talk(source[1], json.dumps({"nonce": request["nonce"], "program": request["program"]}), result[0], deadline)
    if said is None:
        return {"passed": False, "detail": f"took longer than {limits['wall_s']:g} s"}
    nonce, _, words = said.decode("utf-8", "replace").partition(" ")
    if nonce != request["nonce"]:
        _, status = os.waitpid(child, 0)
        return {"passed": False, "detail": _end_of(status)}
    return {"passed": words == "passed", "detail": words}


def _talk(writer: int, program: str, reader: int, deadline: float) -> bytes | None:
    """Sends the program and waits for one word back, or the end of the stream; None after the deadline."""
    os.set_blocking(writer, False)
    left = memoryview(program.encode())
    while True:
        wait_s = deadline - time.monotonic()
        if wait_s <= 0:
            return None
        readable, writable, _ = select.select([reader], [writer] if left else [], [], wait_s)
        if writable:
            try:
                left = left[os.write(writer, left) :]
            except BrokenPipeError:
                left = memoryview(b"")
            if not left:
                os.close(writer)
        if readable:
            return os.read(reader, _MOST_DETAIL_BYTES)


def _become_program(
    python: str, limits: dict[str, Any], calls: tuple[Any, ...], is_root: bool, stdin: int, result: int, trouble: int
) -> NoReturn:
    try:
        os.setsid()
        # First out of the way, so that no descriptor is overwritten before it was copied.
        stdin, result, trouble = (_copy_above(number, 20) for number in (stdin, result, trouble))
        os.dup2(stdin, 0)
        quiet = os.open("/dev/null", os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        os.dup2(result, _RESULT_FD)
        os.closerange(_RESULT_FD + 1, trouble)
        os.closerange(trouble + 1, 1024)
        os.set_inheritable(trouble, False)
        for name, limit in limits["resources"].items():
            resource.setrlimit(getattr(resource, name), (limit, limit))
        if is_root:
            user = 60_001 + random.SystemRandom().randrange(5_000)
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        _refuse_calls(calls)
        os.execve(python, [python, "-I", "-S", "-c", _HARNESS], {"PATH": "", "HOME": "/tmp", "LANG": "C.UTF-8"})
    except BaseException as error:  # noqa: BLE001  (likewise)
        os.write(trouble, f"{type(error).__name__}: {error}".encode())
    os._exit(1)


def _copy_above(number: int, lowest: int) -> int:
    return fcntl.fcntl(number, fcntl.F_DUPFD, lowest)


def _refuse_calls(calls: tuple[Any, ...]) -> None:
    """A seccomp filter in classic BPF: refused calls fail with EPERM, sockets are local ones alone."""
    architecture, clone, socket_, _, refused = calls
    allow, kill = 0x7FFF0000, 0x80000000
    refuse, absent = 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    number_at, architecture_at, first_argument_at = 0, 4, 16
    program = [
        (load, 0, 0, architecture_at), (equal, 1, 0, architecture), (give, 0, 0, kill),
        (load, 0, 0, number_at), (at_least, 0, 1, 0x40000000), (give, 0, 0, kill),
    ]  # fmt: skip
    for number in (*refused, *_REFUSED_EVERYWHERE):
        program += [(equal, 0, 1, number), (give, 0, 0, refuse)]
    program += [(equal, 0, 1, _CLONE3), (give, 0, 0, absent)]  # then the C library takes clone, which can be looked at
    program += [
        (equal, 0, 4, clone), (load, 0, 0, first_argument_at), (any_bit, 0, 1, _ALL_NAMESPACE_FLAGS),
        (give, 0, 0, refuse), (give, 0, 0, allow),
        (equal, 0, 4, socket_), (load, 0, 0, first_argument_at), (equal, 1, 0, 1), (give, 0, 0, refuse),
        (give, 0, 0, allow), (give, 0, 0, allow),
    ]  # fmt: skip
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    filter_ = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code))
    _call("no_new_privs", _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _call("seccomp", _libc.prctl(_PR_SET_SECCOMP, 2, ctypes.c_char_p(filter_), 0, 0))


def _end_of(status: int) -> str:
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"ended by {name}" + (" (processor time)" if name in {"SIGXCPU", "SIGKILL"} else "")
    return f"ended with code {os.WEXITSTATUS(status)} before its tests had passed"


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    values = (os.fsencode(source), os.fsencode(target), kind and kind.encode(), flags, data and data.encode())
    _call(f"mount {target}", _libc.mount(*values))


def _call(what: str, result: int) -> None:
    if result != 0:
        raise NoSandbox(f"{what}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    sys.exit(main())
