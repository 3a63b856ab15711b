"""Runs one untrusted program where it can harm nothing: a script of its own, which imports Python's library alone.

    stdin   {"task", "modules", "python", "readable", "limits"}
    stdout  {"passed", "detail"}, one line; exit code 3 and a reason on stderr where no sandbox can be had

Two processes: the program's (evals.sandbox_candidate), and the one that runs the tests and alone can write the verdict
(evals.sandbox_checker). They share one socket. The program is in a process namespace of its own, so it can
neither see nor signal the other one, and there is no /proc.

Namespaces of Linux keep it from the network, other processes and the host's files: it sees Python, the system's
libraries and an empty /tmp in memory. Resource limits bound memory, processor time, processes and files; a seccomp
filter takes away system calls that no honest program needs. Root starts it as an unused user id; anybody else in a user
namespace. Any step that fails ends it before the program runs.
"""

import binascii
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
import socket
import struct
import sys
import time
from typing import Any, NoReturn

NO_SANDBOX = 3
_CHECKER, _CANDIDATE = "sandbox_checker", "sandbox_candidate"
_MOST_DETAIL_BYTES = 2000

_NEW_NAMESPACES = 0x00020000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000  # mount, pid, net, ipc, uts
_NEW_USER = 0x10000000
_NEW_PIDS = 0x20000000
_FIRST_KEPT_FD = 3
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

_HARNESS_DIR = "/harness"
_MAIN = "import sys; sys.path.insert(0, '/harness'); sys.dont_write_bytecode = True; import evals.{0} as it; it.main()"

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
        _build_root(request["readable"], request["modules"], calls[3])
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


def _build_root(readable: list[str], modules: dict[str, str], pivot_root: int) -> None:
    """A root of its own over /proc, which is not needed any more: read-only parts of the host, and an empty /tmp."""
    root = "/proc"
    os.umask(0o022)  # the server's own would shut the program, which is another user, out of these folders
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    _mount("none", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
    for path in readable:
        _show(path, root + path)
    os.makedirs(f"{root}{_HARNESS_DIR}/evals")
    for name, compiled in modules.items():
        with open(f"{root}{_HARNESS_DIR}/evals/{name}.pyc", "wb") as file:
            file.write(binascii.a2b_base64(compiled))
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
    limits, python = request["limits"], request["python"]
    near, far = socket.socketpair()
    source, result, ready, status = os.pipe(), os.pipe(), os.pipe(), os.pipe()
    if os.fork() == 0:
        _become(_CHECKER, python, limits, calls, is_root, [source[0], result[1], near.fileno()], ready[1])
    _call("unshare", _libc.unshare(_NEW_PIDS))
    if os.fork() == 0:
        candidate = os.fork()
        if candidate == 0:
            _become(_CANDIDATE, python, limits, calls, is_root, [None, far.fileno()], ready[1])
        for number in (*source, *result, *ready, near.fileno(), far.fileno()):
            os.close(number)
        _wait_for(candidate, status[1])
    near.close()
    far.close()
    for number in (source[0], result[1], ready[1], status[1]):
        os.close(number)
    trouble = os.read(ready[0], _MOST_DETAIL_BYTES)  # closed by both execs
    if trouble:
        return {"no_sandbox": trouble.decode()}
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    deadline = time.monotonic() + limits["wall_s"]
    said = _talk(source[1], json.dumps(request["task"]), result[0], deadline)
    if said is None:
        return {"passed": False, "detail": f"took longer than {limits['wall_s']:g} s"}
    words = said.decode("utf-8", "replace")
    return {"passed": words == "passed", "detail": words or _end_of(_status(status[0], deadline))}


def _wait_for(candidate: int, told: int) -> NoReturn:
    """The first process of the program's namespace, with whose end all that it started end."""
    try:
        while True:
            process, status = os.wait()
            if process == candidate:
                os.write(told, str(status).encode())
                break
    finally:
        os._exit(0)


def _status(reader: int, deadline: float) -> int | None:
    """How the program ended; None where it is still there."""
    readable, _, _ = select.select([reader], [], [], max(0.0, min(1.0, deadline - time.monotonic())))
    said = os.read(reader, 32) if readable else b""
    return int(said) if said else None


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


def _become(
    name: str,
    python: str,
    limits: dict[str, Any],
    calls: tuple[Any, ...],
    is_root: bool,
    descriptors: list[int | None],
    trouble: int,
) -> NoReturn:
    """`descriptors`: what is standard input, and what begins at 3."""
    try:
        os.setsid()
        # First out of the way, so that no descriptor is overwritten before it was copied.
        stdin, *kept = (None if number is None else _copy_above(number, 20) for number in descriptors)
        trouble = _copy_above(trouble, 20)
        quiet = os.open("/dev/null", os.O_RDWR)
        os.dup2(quiet if stdin is None else stdin, 0)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        for place, number in enumerate(kept, start=_FIRST_KEPT_FD):
            assert number is not None
            os.dup2(number, place)
        os.closerange(_FIRST_KEPT_FD + len(kept), trouble)
        os.closerange(trouble + 1, 1024)
        os.set_inheritable(trouble, False)
        for limit_name, limit in limits["resources"].items():
            resource.setrlimit(getattr(resource, limit_name), (limit, limit))
        if is_root:
            user = 60_001 + random.SystemRandom().randrange(5_000)
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
        _refuse_calls(calls)
        command = [python, "-I", "-S", "-c", _MAIN.format(name)]
        os.execve(python, command, {"PATH": "", "HOME": "/tmp", "LANG": "C.UTF-8"})
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


def _end_of(status: int | None) -> str:
    if status is None:
        return "closed its way to its tests before they had passed"
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
