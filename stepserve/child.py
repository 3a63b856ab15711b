"""One supervised process: in a process group of its own, restarted with back-off, never survived by its children.

It is restarted when it has ended, and when its event loop has stood still (see stepserve.heartbeat).
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Collection, Mapping

from stepserve.heartbeat import DUMP_SIGNAL, Pulse, told_of

log = logging.getLogger(__name__)

EXIT_REFUSED = 78  # EX_CONFIG of sysexits.h: starting again would fail the same way
_FIRST_DELAY_S = 0.5
_LONGEST_DELAY_S = 30.0
_HEALTHY_AFTER_S = 60.0
_DUMP_S = 1.0  # for the stacks of a process that stands still, before it is ended


class Child:
    """`run` keeps the process alive until `stop`, or until it exits with EXIT_REFUSED.

    `hang_timeout_s`: how long its event loop may stand still, once it has begun to beat; 0: as long as it likes.
    `insists`: it is started again even after EXIT_REFUSED, but for its first start: what it needs may come back.
    `cores`: the logical processors that it and its children compute on; none: those of this process.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        environment: Mapping[str, str] | None = None,
        hang_timeout_s: float = 0.0,
        cores: Collection[int] = (),
        *,
        insists: bool = False,
    ) -> None:
        self.name = name
        self._cores = cores
        self._insists = insists
        self._environment = environment
        self._hang_timeout_s = hang_timeout_s
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._frozen_pid: int | None = None
        self.starts = 0

    async def run(self) -> None:
        delay_s = _FIRST_DELAY_S
        while not self._stopping.is_set():
            started = time.monotonic()
            self.starts += 1
            how = await self._live()
            if how is None or self._stopping.is_set():
                return
            if time.monotonic() - started > _HEALTHY_AFTER_S:
                delay_s = _FIRST_DELAY_S
            log.error("%s %s; starting it again in %.1f s", self.name, how, delay_s)
            print(f"{self.name} {how}; starting it again in {delay_s:.1f} s", file=sys.stderr, flush=True)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._stopping.wait()
            delay_s = min(_LONGEST_DELAY_S, delay_s * 2)

    async def _live(self) -> str | None:
        """One life of the process: how it ended, in words; None when starting it again would not help."""
        environment = dict(os.environ if self._environment is None else self._environment)
        with Pulse() as pulse:
            # A process group and not a session: Linux shares the cores out among sessions first (autogroup), and a
            # gateway in a session of its own gets half of what a busy client beside it gets.
            self._process = process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                process_group=0,
                env=environment | told_of(self._frozen_pid) | (pulse.variable if self._hang_timeout_s else {}),
                pass_fds=(pulse.descriptor,) if self._hang_timeout_s else (),
            )
            pulse.handed_over()
            if self._cores:
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(process.pid, self._cores)  # it has no thread yet that would not inherit this
            ended = asyncio.create_task(process.wait(), name=f"{self.name} ended")
            stands_still = await self._stands_still(pulse, ended)
            self._frozen_pid = process.pid if stands_still else None
            if stands_still:
                await self._end_frozen(process, ended)
            code = await ended
        self._kill_group()
        if stands_still:
            return f"stood still for {self._hang_timeout_s:g} s (setting hang_timeout_s) and was ended"
        if code == EXIT_REFUSED and (self.starts == 1 or not self._insists):
            return None
        return f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"

    async def _stands_still(self, pulse: Pulse, ended: asyncio.Task[int]) -> bool:
        """Returns when the process has ended, or stands still without having been asked to stop."""
        if not self._hang_timeout_s:
            await asyncio.wait({ended})
            return False
        silence = asyncio.create_task(pulse.stops(self._hang_timeout_s), name=f"{self.name} stands still")
        try:
            await asyncio.wait({ended, silence}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            silence.cancel()
        if not ended.done() and self._stopping.is_set():
            await asyncio.wait({ended})  # `stop` has a patience of its own
        return not ended.done()

    async def _end_frozen(self, process: asyncio.subprocess.Process, ended: asyncio.Task[int]) -> None:
        log.error(
            "the event loop of %s (process %d) has stood still for %.0f s; it is ended, and says on standard error"
            " what it was doing unless it is stopped",
            self.name, process.pid, self._hang_timeout_s,
        )  # fmt: skip
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(DUMP_SIGNAL)
        await asyncio.wait({ended}, timeout=_DUMP_S)
        self._kill_group()

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

    def hang_up(self) -> None:
        """Has the process read its settings again."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        self._stopping.set()
        self._kill_group()

    def _kill_group(self) -> None:
        """Ends whatever is left of the process's group, such as engine processes whose front end is gone."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
