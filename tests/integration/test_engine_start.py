"""Processes of engines that hang when they start, or do not go: real ones, with no engine in them."""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess

import psutil
import pytest

from gateway.engine.process.family import Starting, family_of, kill
from gateway.engine.process.start import in_time
from gateway.errors import EngineStartFailed

CHILD = [sys.executable, "-c", "import time; time.sleep(600)"]


def stop_at_once() -> None:
    """As an engine that somebody stops, with a worker below it that is stopped too."""
    worker = subprocess.Popen(CHILD)
    os.kill(worker.pid, signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGSTOP)


def engine_process() -> BaseProcess:
    return multiprocessing.get_context("fork").Process(target=stop_at_once, name="EngineCore")


def until_it_ends(started: list[BaseProcess]) -> str:
    """What vLLM does in its front end: starts the process and waits for word of it, or for its end."""
    process = engine_process()
    process.start()
    started.append(process)
    process.join()
    raise RuntimeError(f"engine core initialization failed: {process.exitcode}")


def is_stopped(process: psutil.Process) -> bool:
    return bool(process.status() == psutil.STATUS_STOPPED)


def test_a_start_that_hangs_fails_in_time_and_leaves_no_process() -> None:
    started: list[BaseProcess] = []
    seen: list[psutil.Process] = []

    async def run() -> None:
        starting = Starting()
        with pytest.raises(EngineStartFailed, match="too late"):
            await in_time(
                lambda: until_it_ends(started),
                3.0,
                starting,
                end=lambda _: pytest.fail("nothing came"),
                late="too late",
            )

    async def watched() -> None:
        running = asyncio.create_task(run())
        while not started or len(family_of([started[0].pid])) < 2:
            await asyncio.sleep(0.02)
        seen.extend(family_of([started[0].pid]))
        await running

    asyncio.run(watched())
    assert len(seen) == 2
    assert not psutil.wait_procs(seen, timeout=240.0)[1], "neither the process nor what it has started"


async def _finished_late() -> list[str]:
    ended: list[str] = []
    starting = Starting()

    def late() -> str:
        time.sleep(1.0)
        return "an engine"

    with pytest.raises(EngineStartFailed):
        await in_time(late, 0.01, starting, end=ended.append, late="too late")
    while not ended:
        await asyncio.sleep(0.02)
    return ended


def test_what_comes_up_too_late_is_ended() -> None:
    assert asyncio.run(_finished_late()) == ["an engine"]


async def test_a_start_that_succeeds_or_fails_in_time_is_left_alone() -> None:
    assert await in_time(lambda: 7, 60.0, Starting(), end=lambda _: None, late="") == 7
    with pytest.raises(SystemExit):  # as argparse does
        await in_time(lambda: sys.exit(2), 60.0, Starting(), end=lambda _: None, late="")


def test_a_family_is_gone_when_its_end_returns_although_it_is_stopped() -> None:
    parent = subprocess.Popen([sys.executable, "-c", f"import subprocess; subprocess.run({CHILD!r})"])
    while len(family := family_of([parent.pid])) < 2:
        time.sleep(0.02)
    for process in family:
        process.suspend()
    kill(family)
    assert [each.pid for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []
    parent.wait()
