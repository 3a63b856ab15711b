"""A node: joins the head, runs its ranks of the head's models, and joins again whenever the head is lost."""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from gateway.nodes.files import Files, FilesRefused
from gateway.nodes.link import LONGEST_LINE_BYTES, Link, LinkLost, is_head, new_nonce, node_proof
from gateway.nodes.messages import (
    Challenge,
    Check,
    Checked,
    End,
    Ended,
    Hello,
    Start,
    Started,
    Unwelcome,
    Welcome,
)
from stepserve.engine_arguments import ranks_of
from stepserve.settings import EngineSettings
from stepserve.shared_memory import remove, segments_of

log = logging.getLogger(__name__)

_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.5, 10.0
_JOINS_WITHIN_S = 10.0


class NodeRefused(Exception):
    """The head does not take this node, and to try again is vain; the text is a sentence."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What this node tells the head about itself."""

    name: str
    address: str
    stepserve: str
    vllm: str
    build: Literal["cpu", "cuda"]
    devices: int


class Ranks:
    """The process that computes, with those that it starts: one waits with vLLM imported, one order is carried out.

    `command` starts a process that reads an order, a line of JSON, from its standard input.
    """

    def __init__(self, environment: Mapping[str, str], command: Sequence[str]) -> None:
        self._environment = environment
        self._command = command
        self._waiting: asyncio.subprocess.Process | None = None
        self._running: asyncio.subprocess.Process | None = None
        self._one_changes = asyncio.Lock()

    async def prepare(self) -> None:
        """Has a process wait for the next order, unless one does."""
        async with self._one_changes:
            await self._prepare()

    async def start(self, order: Start) -> asyncio.subprocess.Process:
        """The process that carries it out; whatever ran before has to have ended."""
        async with self._one_changes:
            process = self._running = await self._prepare()
            self._waiting = None
            assert process.stdin is not None
            process.stdin.write(order.model_dump_json().encode() + b"\n")
            with contextlib.suppress(OSError):  # it has ended, which whoever waits for it sees
                await process.stdin.drain()
            return process

    async def end(self) -> None:
        """Returns when what ran is gone, with its children."""
        async with self._one_changes:
            if self._running is not None:
                await _killed(self._running)
                self._running = None

    async def close(self) -> None:
        await self.end()
        async with self._one_changes:
            if self._waiting is not None:
                await _killed(self._waiting)

    async def _prepare(self) -> asyncio.subprocess.Process:
        if self._waiting is None or self._waiting.returncode is not None:
            self._waiting = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.PIPE, env=self._environment, start_new_session=True
            )
        return self._waiting


async def _killed(process: asyncio.subprocess.Process) -> None:
    family = await asyncio.to_thread(_family, process.pid)
    segments = frozenset[Path]().union(*(segments_of(pid) for pid in family))
    with contextlib.suppress(ProcessLookupError):  # of the whole group, which outlives its first process
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
    remove(segments)


def _family(pid: int) -> list[int]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return []


class Peer:
    """`run` until it is cancelled."""

    def __init__(self, head: tuple[str, int], key: str, facts: Facts, ranks: Ranks, files: Files) -> None:
        self._head = head
        self._key = key
        self._facts = facts
        self._boot_id = secrets.token_hex(8)
        self._ranks = ranks
        self._files = files
        self._tasks: set[asyncio.Task[None]] = set()
        self._order: int | None = None

    async def run(self) -> None:
        """Raises NodeRefused."""
        delay_s = _FIRST_DELAY_S
        try:
            while True:
                await self._ranks.prepare()
                try:
                    async with asyncio.timeout(_JOINS_WITHIN_S):
                        link = await self._joined()
                except (LinkLost, OSError, TimeoutError) as error:
                    log.warning("%s:%d cannot be joined (%s), next try in %.1f s", *self._head, _words(error), delay_s)
                    await asyncio.sleep(delay_s)
                    delay_s = min(_LONGEST_DELAY_S, 2 * delay_s)
                    continue
                delay_s = _FIRST_DELAY_S
                log.info("joined %s:%d", *self._head)
                await self._member(link)
        finally:
            await self._ranks.close()

    async def _joined(self) -> Link:
        """Raises NodeRefused, LinkLost, OSError."""
        reader, writer = await asyncio.open_connection(*self._head, limit=LONGEST_LINE_BYTES)
        link = Link(reader, writer)
        try:
            challenge = await link.expect(Challenge)
            nonce, facts = new_nonce(), self._facts
            link.send(
                Hello(
                    nonce=nonce,
                    proof=node_proof(self._key, challenge, nonce),
                    boot_id=self._boot_id,
                    name=facts.name,
                    address=facts.address,
                    stepserve=facts.stepserve,
                    vllm=facts.vllm,
                    build=facts.build,
                    devices=facts.devices,
                )
            )
            answer = await link.receive()
            if isinstance(answer, Unwelcome):
                raise NodeRefused(answer.reason)
            if not isinstance(answer, Welcome) or not is_head(self._key, challenge, nonce, answer):
                raise NodeRefused("what answers there does not have nodes.key (INFERENCE_NODES__KEY)")
        except BaseException:
            link.close()
            raise
        return link

    async def _member(self, link: Link) -> None:
        """Does what the head says until it is lost."""
        beats = asyncio.create_task(link.beat())
        try:
            while True:
                match await link.receive():
                    case Check() as check:
                        self._begin(self._check(link, check))
                    case Start() as start:
                        await self._start(link, start)
                    case End(number=number):
                        await self._end()
                        link.send(Ended(number=number, reason="it was ended"))
                    case _:
                        raise LinkLost("it says what a head does not say")
        except LinkLost as error:
            log.warning("the head is lost: %s", error)
        finally:
            beats.cancel()
            link.close()
            await self._end()
            for task in self._tasks:
                task.cancel()

    async def _end(self) -> None:
        self._order = None
        await self._ranks.end()
        await self._ranks.prepare()

    async def _check(self, link: Link, check: Check) -> None:
        try:
            link.send(Checked(number=check.number, digest=await self._files.digest(check.path)))
        except FilesRefused as error:
            link.send(Checked(number=check.number, reason=str(error)))

    async def _start(self, link: Link, start: Start) -> None:
        if (reason := self._obstacle(start)) is not None:
            link.send(Started(number=start.number, reason=reason))
            return
        self._order = start.number
        log.info("starts rank %d of `%s`", start.node_rank, start.model.id)
        process = await self._ranks.start(start)
        link.send(Started(number=start.number))
        self._begin(self._watch(link, start.number, process))

    def _obstacle(self, start: Start) -> str | None:
        if self._order is not None:
            return "another model runs there"
        settings = EngineSettings.model_validate(start.settings).with_overrides(start.model.engine)
        ranks = ranks_of(settings.args)
        if ranks > self._facts.devices:
            return f"it takes {ranks} devices on each node, and there are {self._facts.devices}"
        return None

    async def _watch(self, link: Link, number: int, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        if self._order == number:
            log.error("the ranks of order %d ended with %d", number, code)
            await self._end()
            link.send(
                Ended(number=number, reason=f"the engine's process ended with {code} (see what it printed there)")
            )

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _words(error: BaseException) -> str:
    return str(error) or f"no answer within {_JOINS_WITHIN_S:.0f} s"
