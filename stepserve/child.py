"""One supervised process: in a process group of its own, restarted with back-off, never survived by its children."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping

log = logging.getLogger(__name__)

EXIT_REFUSED = 78  # EX_CONFIG of sysexits.h: starting again would fail the same way
_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 30.0
_HEALTHY_AFTER_S = 60.0


class Child:
    """`run` keeps the process alive until `stop`, or until it exits with EXIT_REFUSED."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._environment = environment
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self.starts = 0

    async def run(self) -> None:
        delay_s = _FIRST_DELAY_S
        while not self._stopping.is_set():
            started = time.monotonic()
            self.starts += 1
            # A process group and not a session: Linux shares the cores out among sessions first (autogroup), and a
            # gateway in a session of its own gets half of what a busy client beside it gets.
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.DEVNULL, process_group=0, env=self._environment
            )
            code = await self._process.wait()
            self._kill_group()
            if code == EXIT_REFUSED or self._stopping.is_set():
                return
            if time.monotonic() - started > _HEALTHY_AFTER_S:
                delay_s = _FIRST_DELAY_S
            how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
            log.error("%s %s; starting it again in %.1f s", self.name, how, delay_s)
            print(f"{self.name} {how}; starting it again in {delay_s:.1f} s", file=sys.stderr, flush=True)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._stopping.wait()
            delay_s = min(_LONGEST_DELAY_S, delay_s * 2)

    async def stop(self, timeout_s: float) -> None:
        """Asks the process to end, and ends it and all it started after `timeout_s`."""
        self._stopping.set()
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout_s):
                await process.wait()
        except TimeoutError:
            log.error("%s did not end within %.0f s; killing it", self.name, timeout_s)
            self._kill_group()

    def kill(self) -> None:
        self._stopping.set()
        self._kill_group()

    def _kill_group(self) -> None:
        """Ends whatever is left of the process's group, such as engine processes whose front end is gone."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
