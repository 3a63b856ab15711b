"""Leases of running jobs: their owners, keeping one, and which are dead.

Dead leases are found by watching them, with no clock but this process's monotonic one: the wall clocks of two machines
differ, and one machine's may jump by an hour. A lease is dead not because its time is past, but because it did not
change while somebody watched it for the length of a lease.
"""

import asyncio
import itertools
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psutil
from sqlalchemy.exc import SQLAlchemyError

from control.errors import DatabaseUnavailable
from control.jobs.ending import LAPSED, TAKEN, Stop
from control.tasks import is_set_within

log = logging.getLogger(__name__)

_PROC = Path("/proc")
_START_FIELD = 22 - 4  # of /proc/<pid>/stat, counted after the state
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease of a running job as its row says. It lives as long as `expires_at` keeps changing."""

    job_id: str
    owner: str | None
    expires_at: datetime | None


class LeaseWatch:
    def __init__(self, lease_s: float, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._lease_s = lease_s
        self._monotonic_s = monotonic_s
        self._unchanged_since_s: dict[Lease, float] = {}

    def dead(self, leases: Iterable[Lease]) -> list[Lease]:
        """Those of `leases` that have not changed for a lease's length of calls."""
        now_s = self._monotonic_s()
        self._unchanged_since_s = {lease: self._unchanged_since_s.get(lease, now_s) for lease in leases}
        return [lease for lease, since_s in self._unchanged_since_s.items() if now_s - since_s >= self._lease_s]


async def keep_lease(
    job_id: str, renew: Callable[[], Awaitable[bool]], over: asyncio.Event, *, every_s: float, lease_s: float
) -> Stop | None:
    """Renews a lease until `over` (None); returns before when the job is, or must be thought, another's.

    A lease that could not be renewed for its whole length may have been taken over: the run has to end by then. This
    is told to end, not cancelled, so that no statement is cut off in the database with a lock in its hands. `renew` is
    False when the lease is not the owner's any more.
    """
    renewed_s = time.monotonic()
    while not await is_set_within(over, every_s):
        try:
            if not await renew():
                return TAKEN
            renewed_s = time.monotonic()
        except (DatabaseUnavailable, SQLAlchemyError) as error:
            log.warning("no heartbeat for %s: %s", job_id, error)
            if time.monotonic() - renewed_s >= lease_s:
                log.error("%s: its lease has run out, the run is stopped", job_id)
                return LAPSED
    return None


def why_lost(keeping: "asyncio.Task[Stop | None]") -> Stop:
    """Of a `keep_lease` that returned before its run was over."""
    error = keeping.exception()
    if error is not None:
        log.error("%s crashed", keeping.get_name(), exc_info=error)
    return LAPSED if error is not None else keeping.result() or LAPSED


def new_owner() -> str:
    """`host/boot/pid/start/number`: names one runner of one start of one process."""
    return f"{socket.gethostname()}/{_boot()}/{os.getpid()}/{_start_of(os.getpid())}/{next(_numbers)}"


def pid_of(owner: str) -> int | None:
    """The owner's process id, where it was a process of this host."""
    match owner.split("/"):
        case [host, _, pid, _, _] if host == socket.gethostname() and pid.isdigit():
            return int(pid)
    return None


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
