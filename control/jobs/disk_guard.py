"""Jobs pause before the disk is full, so that what is left stays for the database, the logs and the answers."""

import asyncio
import logging
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from control.telemetry.sampler import in_thread

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 2.0
RESUME_MARGIN_BYTES: Final = 100_000_000
_PATIENCE_S: Final = 1.0
_GB: Final = 1e9


class PausableJobs(Protocol):
    """The job queue as this needs it."""

    def hold(self, reasons: Mapping[str, str]) -> None:
        """Types of jobs that may not run, each with the reason; running ones go back to the queue."""
        ...


class DiskGuard:
    """`folders` are those that jobs of a type write to. Jobs go on once a tenth more than `min_free_bytes` is
    free, or RESUME_MARGIN_BYTES more.

    A disk that does not answer holds nobody up here: whoever writes to it will notice.
    """

    def __init__(
        self,
        folders: Mapping[str, Iterable[Path]],
        min_free_bytes: int,
        jobs: PausableJobs,
        free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
        every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._folders = {type_: tuple(of_type) for type_, of_type in folders.items()}
        self._min_free_bytes = min_free_bytes
        self._jobs = jobs
        self._free_bytes = free_bytes
        self._every_s = every_s
        self._asked: dict[Path, Future[int]] = {}
        self.reasons: Mapping[str, str] = {}

    async def run(self) -> None:
        while self._min_free_bytes:
            await self.look()
            await asyncio.sleep(self._every_s)

    async def look(self) -> None:
        """Holds, or lets go, what the disks say now."""
        if not self._min_free_bytes:
            return
        free = await asyncio.to_thread(self._read)
        reasons = {}
        for type_, folders in self._folders.items():
            known = {folder: free[folder] for folder in folders if folder in free}
            reason = why_paused(known, self._min_free_bytes, paused=type_ in self.reasons)
            if reason is not None:
                reasons[type_] = reason
        if reasons.keys() != self.reasons.keys():
            for reason in sorted({*reasons.values()}):
                log.error("jobs pause: %s", reason)
            if not reasons:
                log.info("there is space on the disk again: jobs go on")
        self.reasons = reasons
        self._jobs.hold(reasons)

    def _read(self) -> dict[Path, int]:
        """Free bytes of every folder whose disk answers; one thread a disk that hangs."""
        folders = {folder for of_type in self._folders.values() for folder in of_type}
        for folder in folders:
            if folder not in self._asked or self._asked[folder].done():
                self._asked[folder] = in_thread(partial(self._free_bytes, folder))
        free = {}
        for folder in folders:
            try:
                free[folder] = self._asked[folder].result(_PATIENCE_S)
            except (NotYet, OSError) as error:
                log.warning("the disk of %s does not say what is free: %s", folder, error)
        return free


def why_paused(free_bytes: Mapping[Path, int], min_free_bytes: int, *, paused: bool) -> str | None:
    """None: jobs may run. `paused`: they do not run now, and space that comes and goes must not stop and start them."""
    folder = min(free_bytes, key=lambda one: free_bytes[one], default=None)
    margin_bytes = min(min_free_bytes // 10, RESUME_MARGIN_BYTES) if paused else 0
    if folder is None or free_bytes[folder] >= min_free_bytes + margin_bytes:
        return None
    return (
        f"space on the disk of {folder}: {free_bytes[folder] / _GB:.2f} GB are free, and jobs leave"
        f" {min_free_bytes / _GB:.2f} GB (min_free_disk_bytes) alone"
    )
