"""The hub as control sees it: a program that speaks with it, one order a process."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from pydantic import SecretStr, ValidationError

from control.errors import BadJob, HubUnavailable
from control.pull.orders import Failure, FetchOrder, Finished, Listing, ListOrder, Order, Progress, Said
from control.pull.selection import RemoteFile

PROGRAM = (sys.executable, "-m", "control.pull.hub_program")
LONGEST_LINE_BYTES = 64 * 1024 * 1024
GRACE_S = 2.0

# Plain HTTP, which goes on at the byte where it was cut off; Xet's chunks would begin the file again.
_ENVIRONMENT = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


class Hub:
    """HF_ENDPOINT says where it is. The token goes by the program's stdin, so no list of processes shows it.

    `hosts`: to which it may redirect though they are not public.
    """

    def __init__(
        self, token: SecretStr | None, timeout_s: int, hosts: Sequence[str] = (), program: Sequence[str] = PROGRAM
    ) -> None:
        self._token = (token.get_secret_value() or None) if token else None
        self._timeout_s = timeout_s
        self._hosts = list(hosts)
        self._program = program

    async def listing(self, repository: str, revision: str) -> Listing:
        """Raises BadJob (missing, gated …), HubUnavailable."""
        order = ListOrder(
            repository=repository,
            revision=revision,
            token=self._token,
            hosts=self._hosts,
            timeout_s=self._timeout_s,
        )
        async with self._working(order) as lines:
            async for said in lines:
                if isinstance(said, Listing):
                    return said
        raise HubUnavailable("the program that speaks with the hub ended without an answer")

    async def fetch(
        self,
        repository: str,
        commit: str,
        folder: Path,
        files: list[RemoteFile],
        on_progress: Callable[[int], Awaitable[None]],
    ) -> None:
        """Brings the files into `folder`, telling how many bytes are there. Cancelled, it stops and keeps them.

        Raises BadJob naming the file, HubUnavailable, and what `on_progress` raises.
        """
        order = FetchOrder(
            repository=repository,
            commit=commit,
            token=self._token,
            hosts=self._hosts,
            folder=str(folder),
            files=files,
        )
        async with self._working(order) as lines:
            async for said in lines:
                match said:
                    case Progress():
                        await on_progress(said.done_bytes)
                    case Finished():
                        return
        raise HubUnavailable("the program that speaks with the hub ended before all was there")

    @contextlib.asynccontextmanager
    async def _working(
        self, order: ListOrder | FetchOrder
    ) -> AsyncIterator[AsyncIterator[Listing | Progress | Finished]]:
        process = await asyncio.create_subprocess_exec(
            *self._program,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=self._environment(),
            limit=LONGEST_LINE_BYTES,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        ends_itself = False
        try:
            process.stdin.write(Order(order=order).model_dump_json().encode() + b"\n")
            yield _lines(process.stdout)
            ends_itself = True
        except (BadJob, HubUnavailable):
            ends_itself = True
            raise
        finally:
            await _ended(process, grace_s=GRACE_S if ends_itself else 0.0)

    def _environment(self) -> dict[str, str]:
        timeouts = {name: str(self._timeout_s) for name in ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT")}
        return {**os.environ, **timeouts, **_ENVIRONMENT}


async def _ended(process: asyncio.subprocess.Process, grace_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(grace_s):
            await process.wait()
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[Listing | Progress | Finished]:
    """Raises what a Failure stands for."""
    while line := await stream.readline():
        try:
            said = Said.model_validate_json(line).said
        except ValidationError as error:
            raise BadJob("the program that speaks with the hub says something else than agreed") from error
        if isinstance(said, Failure):
            raise (HubUnavailable if said.kind in {"away", "busy"} else BadJob)(said.text)
        yield said
