"""What a container may use: limits of cgroup version 2 and 1, as the kernel shows them inside the container."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
_UNLIMITED_BYTES = 1 << 60  # version 1 writes a huge number where there is no limit


@dataclass(frozen=True, slots=True)
class Cgroup:
    root: Path = ROOT

    def memory_limit_bytes(self) -> int | None:
        """None: no limit, or no cgroup that can be read."""
        for name in ("memory.max", "memory/memory.limit_in_bytes"):
            limit = self._number(name)
            if limit is not None:
                return limit if limit < _UNLIMITED_BYTES else None
        return None

    def memory_used_bytes(self) -> int | None:
        """Without the page cache that the kernel would give back at once."""
        for name, statistics, key in (
            ("memory.current", "memory.stat", "inactive_file"),
            ("memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
        ):
            used = self._number(name)
            if used is not None:
                return max(0, used - (self._row(statistics, key) or 0))
        return None

    def cpus(self) -> float | None:
        """How many cores' worth of time the container gets; None: all."""
        quota = self._text("cpu.max").split()
        if len(quota) == 2 and quota[0].isdigit():
            return int(quota[0]) / int(quota[1])
        quota_us, period_us = self._number("cpu/cpu.cfs_quota_us"), self._number("cpu/cpu.cfs_period_us")
        return quota_us / period_us if quota_us and period_us and quota_us > 0 else None

    def cpu_used_s(self) -> float | None:
        """CPU seconds since the container began."""
        used_us = self._row("cpu.stat", "usage_usec")
        if used_us is not None:
            return used_us / 1e6
        used_ns = self._number("cpuacct/cpuacct.usage")
        return used_ns / 1e9 if used_ns is not None else None

    def _text(self, name: str) -> str:
        try:
            return (self.root / name).read_text()
        except OSError:
            return ""

    def _number(self, name: str) -> int | None:
        try:
            return int(self._text(name))
        except ValueError:
            return None

    def _row(self, name: str, key: str) -> int | None:
        for line in self._text(name).splitlines():
            found, _, value = line.partition(" ")
            if found == key and value.strip().isdigit():
                return int(value)
        return None
