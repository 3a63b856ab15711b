"""Processor, memory and disks of this machine, or of the container that this is."""

import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from control.telemetry.sampler import in_thread
from stepserve.cgroup import Cgroup

_GB = 1024**3
_DISK_PATIENCE_S = 0.5
_MOUNTS_KEPT_S = 30.0
_REAL = frozenset({
    "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "vfat", "exfat", "ntfs", "fuseblk", "apfs", "overlay",
    "nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "lustre", "beegfs", "9p", "fuse.sshfs", "virtiofs",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class DiskUse:
    """`used_gb`, `total_gb` and `percent` are None while a mount does not answer."""

    mount: str
    used_gb: float | None = None
    total_gb: float | None = None
    percent: float | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class SystemSeen:
    """`cpu_load` is the share of what this container may use, 0 to 1."""

    cpu_load: float
    cpus: float
    ram_used_gb: float
    ram_total_gb: float
    ram_percent: float
    disk: list[DiskUse] = field(default_factory=list)


class CpuLoad:
    """`now` is the load between the last two samples, however many read it; 0 before the second one."""

    def __init__(self, cgroup: Cgroup, clock: Callable[[], float] = time.monotonic) -> None:
        self._cgroup = cgroup
        self._clock = clock
        self._host = psutil.cpu_times()
        self._at: tuple[float, float | None] = (clock(), cgroup.cpu_used_s())
        self.now = 0.0

    def sample(self) -> None:
        (before_s, used_before_s), host_before = self._at, self._host
        self._at, self._host = (self._clock(), self._cgroup.cpu_used_s()), psutil.cpu_times()
        now_s, used_s = self._at
        cpus = self._cgroup.cpus()
        if cpus is None or used_s is None or used_before_s is None:
            self.now = _busy_share(host_before, self._host)
        elif now_s > before_s:
            self.now = min(1.0, max(0.0, (used_s - used_before_s) / (now_s - before_s) / cpus))


def _busy_share(before: Any, after: Any) -> float:
    """Of the machine's time between two readings; psutil's fields, guests are counted in user and nice."""
    spent = {name: getattr(after, name) - getattr(before, name) for name in after._fields}
    total = sum(spent.values()) - spent.get("guest", 0.0) - spent.get("guest_nice", 0.0)
    idle = spent["idle"] + spent.get("iowait", 0.0)
    return min(1.0, max(0.0, 1 - idle / total)) if total > 0 else 0.0


class SystemReader:
    """`read` takes milliseconds, and half a second the first time that a network mount hangs."""

    def __init__(
        self,
        folders: Iterable[Path],
        *,
        cgroup: Cgroup | None = None,
        usage: Callable[[str], tuple[int, int]] | None = None,
        mounts: Callable[[], list[str]] | None = None,
    ) -> None:
        self._cgroup = cgroup or Cgroup()
        self._disks = _Disks(usage or _usage)
        self._find_mounts = mounts or partial(mounts_of, list(folders))
        self._mounts: list[str] = []
        self._mounts_at_s = -_MOUNTS_KEPT_S
        self._cpu = CpuLoad(self._cgroup)

    def read(self) -> SystemSeen:
        """Blocks for as little as said above; call it in a thread."""
        cpus = self._cgroup.cpus() or float(len(os.sched_getaffinity(0)))
        memory = psutil.virtual_memory()
        total, used = memory.total, memory.total - memory.available
        limit = self._cgroup.memory_limit_bytes()
        if limit is not None and limit < total:
            total, used = limit, self._cgroup.memory_used_bytes() or 0
        return SystemSeen(
            cpu_load=round(self._cpu.now, 4),
            cpus=round(cpus, 2),
            ram_used_gb=round(used / _GB, 3),
            ram_total_gb=round(total / _GB, 3),
            ram_percent=round(100 * used / total, 1),
            disk=self._disks.read(self._known_mounts()),
        )

    def _known_mounts(self) -> list[str]:
        now_s = time.monotonic()
        if now_s - self._mounts_at_s >= _MOUNTS_KEPT_S:
            self._mounts, self._mounts_at_s = self._find_mounts(), now_s
        return self._mounts

    def sample_cpu(self) -> None:
        """Takes microseconds. Once a second, by one task: the load is that between the last two samples."""
        self._cpu.sample()


class _Disks:
    """One thread a mount that hangs, however often it is looked at."""

    def __init__(self, usage: Callable[[str], tuple[int, int]]) -> None:
        self._usage = usage
        self._asked: dict[str, Future[tuple[int, int]]] = {}

    def read(self, mounts: list[str]) -> list[DiskUse]:
        hung = {mount for mount in mounts if mount in self._asked and not self._asked[mount].done()}
        for mount in mounts:
            if mount not in hung:
                self._asked[mount] = in_thread(partial(self._usage, mount))
        until_s = time.monotonic() + _DISK_PATIENCE_S
        return [self._one(mount, 0.0 if mount in hung else until_s - time.monotonic()) for mount in mounts]

    def _one(self, mount: str, patience_s: float) -> DiskUse:
        try:
            used, total = self._asked[mount].result(max(0.0, patience_s))
        except NotYet:
            return DiskUse(mount, problem="does not answer")
        except OSError as error:
            return DiskUse(mount, problem=error.strerror or str(error))
        percent = round(100 * used / total, 1) if total else None
        return DiskUse(mount, round(used / _GB, 3), round(total / _GB, 3), percent)


def mounts_of(folders: Iterable[Path]) -> list[str]:
    """Mounts of real and network file systems, one a device, and always those that `folders` lie on. Touches none."""
    known = psutil.disk_partitions(all=True)
    points = sorted((part.mountpoint for part in known), key=len, reverse=True)
    wanted = {next((point for point in points if _lies_in(str(folder), point)), "/") for folder in folders}
    chosen: dict[str, str] = {}
    for part in known:
        if part.mountpoint in wanted or (part.fstype in _REAL and Path(part.mountpoint).name != "resolv.conf"):
            device = part.device if part.device.startswith("/") or ":" in part.device else part.mountpoint
            if device not in chosen or part.mountpoint in wanted:
                chosen[device] = part.mountpoint
    return sorted({*chosen.values(), *wanted})


def _lies_in(folder: str, point: str) -> bool:
    return point in {"/", folder} or folder.startswith(point + "/")


def _usage(mount: str) -> tuple[int, int]:
    usage = psutil.disk_usage(mount)
    return usage.used, usage.total
