"""The processes of one engine: its core, which vLLM starts, and whatever that has started. They are gone for certain
before the memory they had is counted on; one that is stopped (SIGSTOP) obeys no signal but SIGKILL.
"""

import logging
import multiprocessing
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil

from gateway.engine.fork_server import starter_pid
from stepserve.shared_memory import remove, segments_of

log = logging.getLogger(__name__)

_CORE = "EngineCore"  # how vLLM names what it starts by multiprocessing
_GONE_WITHIN_S = 10.0  # a large process takes a moment
_POLL_S = 0.02

Family = frozenset[psutil.Process]


def family_of(pids: Iterable[int | None]) -> Family:
    """Those processes and all below them, as far as they are there."""
    found: set[psutil.Process] = set()
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            found |= {process, *process.children(recursive=True)}
    return frozenset(found)


def kill(family: Family, *, grace_s: float = 0.0, wait_s: float = _GONE_WITHIN_S) -> None:
    """Kills those that do not go within `grace_s`, and blocks until they are gone and their memory is free."""
    left = _left(family, grace_s)
    segments = frozenset[Path]().union(*(segments_of(process.pid) for process in left))
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    if wait_s and (left := _left(family, wait_s)):
        log.error("processes of an engine do not go although they were killed: %s", left)
    remove(segments)


def _left(family: Family, wait_s: float) -> list[psutil.Process]:
    deadline_s = time.monotonic() + wait_s
    while (left := [process for process in family if not _gone(process)]) and time.monotonic() < deadline_s:
        time.sleep(_POLL_S)
    return left


class Starting:
    """The processes of the engine that begins when this is made; one starts at a time."""

    def __init__(self) -> None:
        self._before = _cores()
        self._forks_before = _forks()

    def family(self) -> Family:
        return family_of(_cores() - self._before)

    def forks(self) -> Family:
        """All that was forked meanwhile: one that never ran has told nobody its process id."""
        return family_of(_forks() - self._forks_before)


def kill_starter() -> None:
    """Ends the process that engines are forked from; it is started anew for the next one.

    Engines that were forked from it end as well, so this is for one that forks no more.
    """
    if (pid := starter_pid()) is not None:
        log.error("the process that engines are forked from does not answer: it is killed and started anew")
        kill(frozenset({psutil.Process(pid)}))


def _cores() -> set[int]:
    return {
        process.pid
        for process in multiprocessing.active_children()
        if process.name.startswith(_CORE) and process.pid is not None
    }


def _forks() -> set[int]:
    with suppress(psutil.Error):
        if (pid := starter_pid()) is not None:
            return {process.pid for process in psutil.Process(pid).children()}
    return set()


def _gone(process: psutil.Process) -> bool:
    """A zombie has given its memory back; its parent, which may be stopped, has only to take note."""
    try:
        return not process.is_running() or process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return True
