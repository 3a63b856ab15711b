"""References: what each checkpoint must say of a few prompts, one file a digest, and the making of missing ones."""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from control.errors import CheckpointBroken, ReferenceFailed, ServiceError
from stepserve.contract import Reference
from stepserve.durable import write_whole

log = logging.getLogger(__name__)

# Computes the reference of the checkpoint in a folder, whose digest is given. Raises ReferenceFailed.
Compute = Callable[[Path, str], Awaitable[Reference]]


@dataclass(frozen=True, slots=True)
class _Wanted:
    path: Path
    over: asyncio.Event = field(default_factory=asyncio.Event)


class References:
    """`run` computes what is wanted, one at a time; a digest that failed is not tried again by this process. When it is
    the checkpoint that is broken, whoever asks for its reference is told so.

    A trainer's reference is never replaced by a computed one.
    """

    def __init__(self, folder: Path, compute: Compute, *, compute_max_bytes: int) -> None:
        self._folder = folder
        self._compute = compute
        self._compute_max_bytes = compute_max_bytes
        self._wanted: OrderedDict[str, _Wanted] = OrderedDict()  # the one being computed included
        self._arrived = asyncio.Event()
        self._failed: dict[str, ServiceError] = {}
        self._left_out: dict[str, str] = {}
        self._writing = asyncio.Lock()

    async def put(self, digest: str, reference: Reference) -> None:
        """Stores a trainer's reference in place of any other. Raises ServiceError when it cannot be written."""
        async with self._writing:
            await asyncio.to_thread(self._write, digest, reference)
        self._settle(digest, self._wanted.get(digest))

    async def forget(self, digest: str) -> None:
        """Removes what is stored; nothing there is no error."""
        self._settle(digest, self._wanted.get(digest))
        async with self._writing:
            await asyncio.to_thread(self._file(digest).unlink, missing_ok=True)

    def want(self, digest: str, path: Path, *, weights_bytes: int, quantization: str | None) -> None:
        """Has a missing reference computed, if the checkpoint is one that can be. Returns at once."""
        if quantization is not None:
            self._left_out[digest] = f"none is computed for weights quantised as {quantization}"
            return
        if weights_bytes >= self._compute_max_bytes:
            most = f"{self._compute_max_bytes / 1e9:g} GB (setting proof_compute_max_bytes)"
            self._left_out[digest] = f"one is computed for weights of less than {most} alone"
            return
        if digest in self._failed:
            return
        self._wanted.setdefault(digest, _Wanted(path))
        self._arrived.set()

    async def reference_for(self, digest: str, wait_s: float) -> Reference | None:
        """The stored one; one that is being computed, or is about to be, is waited for. None: there is none now.

        Raises CheckpointBroken when computing it showed that the checkpoint cannot be right.
        """
        wanted = self._wanted.get(digest)
        reference = await self.stored(digest)
        if reference is not None:
            return reference
        self._refuse_broken(digest)
        if wanted is None or wait_s <= 0:
            return None
        if digest in self._wanted:
            self._wanted.move_to_end(digest, last=False)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await wanted.over.wait()
        self._refuse_broken(digest)
        return await self.stored(digest)

    def why_missing(self, digest: str) -> str:
        """Why there is no reference of this checkpoint now, for a person."""
        if (failure := self._failed.get(digest)) is not None:
            return f"computing one failed: {failure}"
        if digest in self._wanted:
            return "it is being computed and was not waited for any longer (setting proof_wait_s)"
        return self._left_out.get(digest, "none was sent with it, and none is computed for it")

    def _refuse_broken(self, digest: str) -> None:
        failure = self._failed.get(digest)
        if isinstance(failure, CheckpointBroken):
            raise CheckpointBroken(f"the checkpoint cannot be served: {failure}")

    async def stored(self, digest: str) -> Reference | None:
        return await asyncio.to_thread(self._read, digest)

    async def run(self) -> None:
        """For ever, until cancelled; a computation under way is then stopped."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._wanted:
                digest, wanted = next(iter(self._wanted.items()))
                try:
                    await self._make(digest, wanted.path)
                except ServiceError as error:
                    self._failed[digest] = error
                    log.warning("no reference for %s (%s): %s", wanted.path, digest, error)
                finally:
                    self._settle(digest, wanted)

    async def _make(self, digest: str, path: Path) -> None:
        if await self.stored(digest) is not None:
            return
        reference = await self._compute(path, digest)
        async with self._writing:
            if await self.stored(digest) is None:
                await asyncio.to_thread(self._write, digest, reference)
                log.info("computed the reference of %s (%s)", path, digest)

    def _settle(self, digest: str, wanted: _Wanted | None) -> None:
        """Nobody waits for it any longer."""
        if wanted is None:
            return
        if self._wanted.get(digest) is wanted:
            del self._wanted[digest]
        wanted.over.set()

    def _file(self, digest: str) -> Path:
        return self._folder / f"{digest.removeprefix('sha256:')}.json"

    def _read(self, digest: str) -> Reference | None:
        file = self._file(digest)
        try:
            return Reference.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            log.warning("cannot use the reference in %s: %s", file, error)
            return None

    def _write(self, digest: str, reference: Reference) -> None:
        file = self._file(digest)
        try:
            write_whole(file, reference.model_dump_json(exclude_none=True))
        except OSError as error:
            raise ReferenceFailed(f"the reference cannot be written to {file}: {error.strerror}") from error
