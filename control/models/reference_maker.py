"""Computes a reference in a process of its own: torch must not live in control."""

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from control.checkpoints.checkpoint import inspect
from control.checkpoints.digest_cache import DigestCache
from control.errors import CheckpointBroken, Invalid, ReferenceFailed
from stepserve.contract import EXIT_BROKEN_CHECKPOINT, Reference

LIMIT_S = 600.0  # it has the lowest priority, so that a busy machine makes it slow
PROGRAM = (sys.executable, "-m", "stepserve.reference_program")

# On the CPU even where there is a GPU, which is the engine's; on one thread; from local files alone.
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": "",
}  # fmt: skip


class ReferenceMaker:
    """Calls `program MODEL_PATH`, which prints a Reference; ends it when it takes longer than `limit_s`."""

    def __init__(self, cache: DigestCache, *, program: Sequence[str] = PROGRAM, limit_s: float = LIMIT_S) -> None:
        self._cache = cache
        self._program = program
        self._limit_s = limit_s

    async def compute(self, path: Path, digest: str) -> Reference:
        """The reference of the checkpoint with this digest. Cancelled, it ends the process.

        Raises ReferenceFailed; CheckpointBroken when the program found the checkpoint itself at fault.
        """
        output = await self._run(path)
        try:
            reference = Reference.model_validate_json(output)
        except ValidationError as error:
            raise ReferenceFailed("the program's answer is not a reference") from error
        try:
            checkpoint = await asyncio.to_thread(inspect, path, self._cache)
        except Invalid as error:
            raise ReferenceFailed(f"the files changed meanwhile: {error}") from error
        if checkpoint.digest != digest:
            raise ReferenceFailed("the files changed meanwhile")
        return reference

    async def _run(self, path: Path) -> bytes:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._program,
                str(path),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=os.environ | _ENVIRONMENT,
            )
        except OSError as error:
            raise ReferenceFailed(f"{self._program[0]} cannot be started: {error.strerror}") from error
        try:
            async with asyncio.timeout(self._limit_s):
                output, errors = await process.communicate()
        except TimeoutError as error:
            raise ReferenceFailed(f"computing it took longer than {self._limit_s:.0f} s") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            lines = errors.decode(errors="replace").strip().splitlines() or ["it wrote nothing"]
            said = lines[-1].strip()[:500]
            if process.returncode == EXIT_BROKEN_CHECKPOINT:
                raise CheckpointBroken(said)
            raise ReferenceFailed(f"the program ended with {process.returncode}: {said}")
        return output
