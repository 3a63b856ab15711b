"""Runs untrusted programs in evals.sandbox_program, and refuses where no sandbox can be had."""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from evals import sandbox_candidate, sandbox_checker, sandbox_program, sandbox_values
from evals.errors import ScoringBroken
from evals.programs import Program

MIB = 1024**2
_MARGIN_S = 5.0
_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/etc/ld.so.cache")

# What must hold inside; each failure ends the program before `passed`.
_SELF_TEST = """
import errno, os, socket
for family, address in ((socket.AF_INET, ("127.0.0.1", 9)), (socket.AF_INET6, ("::1", 9, 0, 0))):
    try:
        socket.socket(family, socket.SOCK_DGRAM).connect(address)
    except OSError:
        continue
    raise SystemExit("it has a network")
assert set(os.listdir("/")) <= SHOWN, os.listdir("/")
assert os.getuid() != 0 and os.geteuid() != 0, "it is root"
try:
    open("/usr/escaped", "w")
except OSError as error:
    assert error.errno in (errno.EROFS, errno.EACCES), error
else:
    raise SystemExit("it can write to the host")
children = 0
try:
    while children < 200:
        if os.fork() == 0:
            import time
            time.sleep(5)
            os._exit(0)
        children += 1
except OSError:
    pass
assert children < 100, "its processes are not limited"
"""


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Of one program. `memory_bytes` is of address space and counts for each process by itself."""

    wall_s: float = 10.0
    memory_bytes: int = 512 * MIB
    processes: int = 16
    file_bytes: int = 16 * MIB
    open_files: int = 64

    @property
    def resources(self) -> dict[str, int]:
        return {
            "RLIMIT_AS": self.memory_bytes,
            "RLIMIT_CPU": int(self.wall_s) + 1,
            "RLIMIT_NPROC": self.processes,
            "RLIMIT_FSIZE": self.file_bytes,
            "RLIMIT_NOFILE": self.open_files,
            "RLIMIT_CORE": 0,
        }


@dataclass(frozen=True, slots=True)
class ProgramEnd:
    """`detail` is `passed`, the exception, or what ended the program."""

    passed: bool
    detail: str


class Sandbox:
    """At most as many programs at once as there are cores."""

    def __init__(self, limits: SandboxLimits = SandboxLimits()) -> None:
        self._limits = limits
        self._free = asyncio.Semaphore(os.cpu_count() or 1)

    async def run(self, program: Program) -> ProgramEnd:
        """Whether the program and its tests come to their end without an exception. Raises ScoringBroken where it cannot be run."""
        async with self._free:
            return await asyncio.to_thread(run_program, program, self._limits)


def run_program(program: Program, limits: SandboxLimits) -> ProgramEnd:
    """Blocks for at most the limit and some seconds. Raises ScoringBroken."""
    readable, python = _readable()
    request = {
        "task": asdict(program),
        "modules": _modules(),
        "python": python,
        "readable": readable,
        "limits": {"wall_s": limits.wall_s, "resources": limits.resources},
    }
    try:
        ended = subprocess.run(
            [python, "-I", "-S", sandbox_program.__file__],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=limits.wall_s + _MARGIN_S,
            check=False,
            env={"LANG": "C.UTF-8"},
            close_fds=True,
        )
    except subprocess.TimeoutExpired:
        return ProgramEnd(passed=False, detail=f"took longer than {limits.wall_s:g} s")
    except OSError as error:
        raise ScoringBroken(f"no sandbox can be had on this machine: {error}") from error
    if ended.returncode != 0:
        reason = ended.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"code {ended.returncode}"]
        raise ScoringBroken(f"no sandbox can be had on this machine: {reason[0]}")
    outcome: dict[str, Any] = json.loads(ended.stdout)
    return ProgramEnd(passed=bool(outcome["passed"]), detail=str(outcome["detail"]))


@lru_cache
def why_no_sandbox() -> str | None:
    """None where one can be had and holds: a program that tries to get out ran in it. Blocks for a second, once."""
    shown = {
        "usr",
        "lib",
        "lib64",
        "lib32",
        "etc",
        "dev",
        "tmp",
        "harness",
        *(Path(path).parts[1] for path in _readable()[0]),
    }
    try:
        end = run_program(Program(f"SHOWN = {shown!r}\n{_SELF_TEST}"), SandboxLimits())
    except ScoringBroken as error:
        return str(error)
    return None if end.passed else f"no sandbox can be had on this machine: in a trial {end.detail}"


@lru_cache
def _modules() -> dict[str, str]:
    """The source of what runs inside, by name."""
    inside = (sandbox_values, sandbox_candidate, sandbox_checker)
    return {str(module.__name__).rpartition(".")[2]: Path(str(module.__file__)).read_text("utf-8") for module in inside}


@lru_cache
def _readable() -> tuple[list[str], str]:
    """The host's paths that the program may read, and the interpreter that runs it: not the virtual environment's."""
    prefix = Path(sys.base_prefix).resolve()
    python = prefix / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    system = [path for path in _SYSTEM if os.path.lexists(path)]
    inside = prefix == Path("/usr") or Path("/usr") in prefix.parents
    return system + ([] if inside else [str(prefix / "lib"), str(prefix / "bin")]), str(python)
