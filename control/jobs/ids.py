"""Names: of jobs, and of the workers that hold their leases."""

import itertools
import os
import secrets
import socket
import string
from datetime import datetime
from pathlib import Path

import psutil

_ALPHABET = string.ascii_lowercase + string.digits
_PROC = Path("/proc")
_START_FIELD = 22 - 4  # of /proc/<pid>/stat, counted after the state
_numbers = itertools.count(1)


def new_job_id(job_type: str, moment: datetime) -> str:
    """`eval_20251122_053000_k3f9`: two in one second differ, all but surely; the table's key makes sure."""
    return f"{job_type}_{moment:%Y%m%d_%H%M%S}_{''.join(secrets.choice(_ALPHABET) for _ in range(4))}"


def new_owner() -> str:
    """`host/boot/pid/start/number`: names one worker of one start of one process."""
    return f"{socket.gethostname()}/{_boot()}/{os.getpid()}/{_start_of(os.getpid())}/{next(_numbers)}"


def is_surely_dead(owner: str) -> bool:
    """True when the owner was a process of this boot of this host that is no more. Of others nothing is known: False.

    A container counts as a host of its own. Nothing here depends on the wall clock.
    """
    match owner.split("/"):
        case [host, boot, pid, start, _] if (host, boot) == (socket.gethostname(), _boot()) and pid.isdigit():
            return _start_of(int(pid)) != start
    return False


def _boot() -> str:
    """This boot of the kernel and this namespace of process ids."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}-{(_PROC / 'self/ns/pid').stat().st_ino}"
    except OSError:  # no Linux
        return "-"


def _start_of(pid: int) -> str:
    """When the process started, in ticks since the boot; empty when there is none or it only waits to be reaped.

    psutil's `create_time` follows the wall clock: after the clock was set, a living process would look dead.
    """
    try:
        state, *fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return "" if state in {"Z", "X"} else fields[_START_FIELD]
    except OSError:
        if (_PROC / "self/stat").exists():
            return ""
    try:
        return f"{psutil.Process(pid).create_time():.0f}"
    except psutil.Error:
        return ""
