"""Names: of jobs, and of the processes that hold their leases."""

import os
import secrets
import socket
import string
from datetime import datetime

import psutil

_ALPHABET = string.ascii_lowercase + string.digits


def new_job_id(job_type: str, moment: datetime) -> str:
    """`eval_20251122_053000_k3f9`: two in one second differ, all but surely; the table's key makes sure."""
    return f"{job_type}_{moment:%Y%m%d_%H%M%S}_{''.join(secrets.choice(_ALPHABET) for _ in range(4))}"


def this_owner() -> str:
    """`host/pid/start`: names one start of one process."""
    return f"{socket.gethostname()}/{os.getpid()}/{psutil.Process().create_time():.2f}"


def is_surely_dead(owner: str) -> bool:
    """True when the owner was a process of this host that is no more. Of another host nothing is known: False."""
    host, _, rest = owner.partition("/")
    pid, _, started = rest.partition("/")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" != started
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
