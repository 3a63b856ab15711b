"""Real programs in the real sandbox; skipped where the machine has none to offer (evals then refuse pass@k)."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from evals import sandbox_program
from evals.programs import Program
from evals.sandbox import MIB, ProgramEnd, SandboxLimits, run_program, why_no_sandbox

PATIENT = SandboxLimits(wall_s=120.0)  # a slow machine must reach the limit in question before that of time
pytestmark = pytest.mark.skipif(why_no_sandbox() is not None, reason=str(why_no_sandbox()))


def _run(program: str) -> ProgramEnd:
    return run_program(Program(program), PATIENT)


def test_a_program_passes_by_coming_to_its_end() -> None:
    assert _run("import math, collections, threading\nassert math.gcd(4, 6) == 2") == ProgramEnd(True, "passed")
    assert _run("with open('/tmp/a', 'w') as file: file.write('x')\nassert open('/tmp/a').read() == 'x'").passed


def test_a_server_whose_files_are_its_users_alone_has_a_sandbox_all_the_same() -> None:
    before = os.umask(0o077)
    try:
        assert _run("import math\nwith open('/tmp/a', 'w') as file: file.write('x')") == ProgramEnd(True, "passed")
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("program", "detail"),
    [
        ("assert 1 == 2, 'not so'", "AssertionError: not so"),
        ("def f(:", "SyntaxError"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("import os; os._exit(0)", "ended with code 0 before its tests had passed"),
        ("import os; os.write(3, b'passed'); os._exit(0)", "before its tests had passed"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
        ("import os; os.execv('/usr/bin/true', ['true'])", "before its tests had passed"),
    ],
)
def test_what_does_not_come_to_its_end_fails(program: str, detail: str) -> None:
    end = _run(program)
    assert end.passed is False
    assert detail in end.detail


@pytest.mark.parametrize(
    "program",
    [
        "import socket; socket.create_connection(('127.0.0.1', 22), 1)",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
        "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8765/health', timeout=1)",
    ],
)
def test_there_is_no_network(program: str) -> None:
    assert "not permitted" in _run(program).detail


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "/proc/1/environ", "/proc/self/status", "/sys/kernel", "/home", "/var/log", "/work", __file__],
)
def test_the_hosts_files_are_not_there(path: str) -> None:
    assert "FileNotFoundError" in _run(f"import os; os.stat({path!r})").detail


@pytest.mark.parametrize(
    ("program", "detail"),
    [
        ("open('/usr/x', 'w')", "Read-only file system"),
        ("open('/x', 'w')", "Read-only file system"),
        ("import os; os.setuid(0)", "not permitted"),
        ("import os; os.mknod('/tmp/x', 0o20666, os.makedev(1, 1))", "not permitted"),
        ("import os; os.kill(1, 9)", "PermissionError"),
        ("import os; os.chroot('/tmp')", "not permitted"),
        ("import ctypes; l = ctypes.CDLL(None); raise Exception(l.unshare(0x10000000))", "Exception: -1"),
        ("import ctypes; l = ctypes.CDLL(None); raise Exception(l.ptrace(16, 1, 0, 0))", "Exception: -1"),
        (
            "import ctypes; l = ctypes.CDLL(None); raise Exception(l.mount(b'a', b'/tmp', b'tmpfs', 0, None))",
            "Exception: -1",
        ),
    ],
)
def test_there_is_no_way_out(program: str, detail: str) -> None:
    assert detail in _run(program).detail or ("kill" in program and "before" in _run(program).detail)


@pytest.mark.parametrize(
    "program",
    ["while True: pass", "import time; time.sleep(60)", "while True: print('x' * 10**6)"],
)
def test_an_endless_program_is_ended(program: str) -> None:
    limits = dataclasses.replace(PATIENT, wall_s=2.0)
    assert run_program(Program(program), limits).detail == "took longer than 2 s"


@pytest.mark.parametrize(
    ("program", "detail"),
    [
        ("x = bytearray(2**31)", "MemoryError"),
        ("x = []\nwhile True: x.append(bytearray(2**24))", "MemoryError"),
        ("import os\nwhile True: os.fork()", "BlockingIOError"),
        ("import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,)).start()", "RuntimeError"),
        ("file = open('/tmp/a', 'wb')\nwhile True: file.write(b'x' * 2**20)", "File too large"),
        ("n = 0\nwhile True:\n    n += 1\n    open(f'/tmp/{n}', 'w').close()", "No space left"),
        ("kept = [open('/dev/null') for _ in range(10**6)]", "Too many open files"),
    ],
)
def test_bombs_are_harmless(program: str, detail: str) -> None:
    assert detail in _run(program).detail


_LEAVES_CHILDREN = """
import os
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        os.execv('/usr/bin/sleep', ['{mark}', '60'])
"""


def test_nothing_is_left_running() -> None:
    mark = f"mark-{os.getpid()}"
    assert _run(_LEAVES_CHILDREN.replace("{mark}", mark)).passed
    found = subprocess.run(["pgrep", "-f", mark], capture_output=True, text=True, check=False)
    assert found.stdout.strip() == ""


def test_where_a_step_fails_the_program_does_not_run() -> None:
    request = {
        "task": {}, "modules": {}, "python": sys.executable, "readable": ["/usr", "/no/such/folder"],
        "limits": {"wall_s": 1.0, "resources": {}},
    }  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-I", "-S", sandbox_program.__file__],
        input=json.dumps(request).encode(), capture_output=True, check=False, timeout=240,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (sandbox_program.NO_SANDBOX, b"")
    assert b"/no/such/folder" in ended.stderr


def test_memory_limits_are_those_asked_for() -> None:
    program = "x = bytearray(200 * 2**20)"
    assert run_program(Program(program), SandboxLimits(memory_bytes=512 * MIB)).passed
    assert "MemoryError" in run_program(Program(program), SandboxLimits(memory_bytes=128 * MIB)).detail
