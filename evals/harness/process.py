"""A harness's process as a run sees it: started on a leash, its output kept, ended with all that it has started."""

import asyncio
import contextlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from evals.harness import leash

_ENDS_WITHIN_S = 5.0
_BLOCK_BYTES = 64 * 1024
_LOG_BYTES = 8 * 1024**2
_TAIL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """`memory_bytes` is of address space, and counts for each process by itself; `file_bytes` of each file."""

    memory_bytes: int
    file_bytes: int

    @property
    def resources(self) -> dict[str, int]:
        return {"RLIMIT_AS": self.memory_bytes, "RLIMIT_FSIZE": self.file_bytes, "RLIMIT_CORE": 0}


class HarnessProcess:
    """Whoever starts it ends it."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log
        self._tail = b""
        self._reading = asyncio.create_task(self._read(), name=f"output of {process.pid}")

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        limits: ProcessLimits,
        log: Path,
    ) -> Self:
        """`folder`: where it works. What it prints is appended to `log`, up to 8 MiB. Raises OSError."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-S",
            leash.__file__,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={},
        )
        order = {
            "command": list(command),
            "environment": dict(environment),
            "folder": str(folder),
            "limits": limits.resources,
        }
        assert process.stdin is not None
        process.stdin.write(json.dumps(order).encode() + b"\n")
        return cls(process, log)

    async def wait(self) -> int:
        """Its exit code, once it has ended and all of its output is here. Raises OSError where that cannot be kept."""
        await self._reading
        return await self._process.wait()

    @property
    def last_words(self) -> str:
        """The end of what it printed."""
        return self._tail.decode(errors="replace").strip()

    async def end(self) -> None:
        """Kills it and all that it has started. Returns when they are gone."""
        assert self._process.stdin is not None
        self._process.stdin.close()  # which the leash takes as the order
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ENDS_WITHIN_S):
                await self._process.wait()
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        self._reading.cancel()
        await asyncio.wait({self._reading})

    async def _read(self) -> None:
        assert self._process.stdout is not None
        with self._log.open("ab") as file:
            kept = file.tell()
            while block := await self._process.stdout.read(_BLOCK_BYTES):
                self._tail = (self._tail + block)[-_TAIL_BYTES:]
                if kept < _LOG_BYTES:
                    file.write(block[: _LOG_BYTES - kept])
                    file.flush()
                    kept += len(block)
