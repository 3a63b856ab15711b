"""The templates and the schemas of one job, in a process of their own that is killed when it takes too long.

Attempts ask one by one; what is asked in the same turn of the event loop goes over in one write.
"""

import asyncio
import json
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from datagen.errors import DataGenError, Refused
from stepserve.killable import KillableProcess, line_of

PROGRAM = (sys.executable, "-m", "datagen.rendering_program")
LIMIT_S = 10.0
_START_LIMIT_S = 60.0
_TRIAL_START_S = 10.0
_PATIENCE_S = 0.05
_MOST_TRIES = 2
_MOST_AT_ONCE = 64
_MOST_BYTES_AT_ONCE = 1024**2


class RenderingStopped(DataGenError):
    """A row that cannot be worked on: its process was killed, or died, each time it was tried."""


class _Task:
    __slots__ = ("done", "line", "tries", "what")

    def __init__(self, line: bytes, what: str, done: "asyncio.Future[dict[str, Any]]") -> None:
        self.line = line
        self.what = what
        self.done = done
        self.tries = 0


class Rendering:
    """As a context; leaving it kills the process, which starts when it is first needed."""

    def __init__(
        self,
        templates: Mapping[str, str],
        schemas: Mapping[str, dict[str, Any]],
        *,
        limit_s: float = LIMIT_S,
        program: Sequence[str] = PROGRAM,
    ) -> None:
        self._first = line_of({"templates": dict(templates), "schemas": dict(schemas)})
        self._limit_s = limit_s
        self._program = program
        self._waiting: deque[_Task] = deque()
        self._changed = asyncio.Event()
        self._process: KillableProcess | None = None
        self._driver: asyncio.Task[None] | None = None
        self._failure: DataGenError | None = None

    async def __aenter__(self) -> Self:
        self._driver = asyncio.create_task(self._drive(), name="rendering")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._driver is not None
        self._driver.cancel()
        await asyncio.gather(self._driver, return_exceptions=True)
        await self._end()
        self._fail(DataGenError("the run is over"))

    async def answer(self, task: dict[str, Any], what: str) -> dict[str, Any]:
        """As datagen.rendering_program says; `what` is what it is of, for errors. Raises RenderingStopped when the
        process had to be killed for it twice, DataGenError when none can be started.
        """
        if self._failure is not None:
            raise self._failure
        done: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Task(line_of(task), what, done))
        self._changed.set()
        return await done

    async def _drive(self) -> None:
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                await asyncio.sleep(0)  # attempts that were woken together ask together
                while self._waiting:
                    await self._work(self._next_batch())
        except Refused as error:
            self._fail(error)
        except (OSError, EOFError, TimeoutError) as error:
            why = str(error) or type(error).__name__
            self._fail(DataGenError(f"{' '.join(self._program)} does not start: {why}"))

    def _next_batch(self) -> deque[_Task]:
        batch = deque([self._waiting.popleft()])
        size = len(batch[0].line)
        while self._waiting and len(batch) < _MOST_AT_ONCE and size < _MOST_BYTES_AT_ONCE:
            batch.append(self._waiting.popleft())
            size += len(batch[-1].line)
        return batch

    async def _work(self, batch: deque[_Task]) -> None:
        answered: list[tuple[_Task, dict[str, Any]]] = []
        try:
            process = await self._started()
            process.send(b"".join(task.line for task in batch))
            while batch:
                try:
                    answer = await self._answer(process, answered)
                except TimeoutError:
                    await self._stumbled(batch, f"takes longer than {self._limit_s:g} s")
                    break
                except (EOFError, ConnectionError):
                    await self._stumbled(batch, "ends the process that works on it (too much memory, most often)")
                    break
                answered.append((batch.popleft(), answer))
        finally:
            self._waiting.extendleft(reversed(batch))
            _hand_out(answered)

    async def _answer(self, process: KillableProcess, answered: list[tuple[_Task, dict[str, Any]]]) -> dict[str, Any]:
        """The next one; where it is long in coming, nobody waits for it who has an answer already."""
        try:
            return await process.answer(_PATIENCE_S)
        except TimeoutError:
            _hand_out(answered)
            answered.clear()
            return await process.answer(self._limit_s)

    async def _stumbled(self, batch: deque[_Task], why: str) -> None:
        """Of the first of the batch; a machine that is out of breath is given a second chance."""
        await self._end()
        batch[0].tries += 1
        if batch[0].tries == _MOST_TRIES:
            task = batch.popleft()
            _refuse(task, RenderingStopped(f"{task.what} {why}; it was tried {_MOST_TRIES} times"))

    async def _started(self) -> KillableProcess:
        if self._process is None:
            self._process = await KillableProcess.start(self._program)
            self._process.send(self._first)
            taken = await self._process.answer(_START_LIMIT_S)
            if "refused" in taken:
                raise Refused(*taken["refused"])
        return self._process

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await asyncio.shield(process.end())

    def _fail(self, error: DataGenError) -> None:
        self._failure = self._failure or error
        while self._waiting:
            _refuse(self._waiting.popleft(), error)


def _hand_out(answered: list[tuple[_Task, dict[str, Any]]]) -> None:
    """Together, so that their questions to the engine share requests."""
    for task, answer in answered:
        if not task.done.done():
            task.done.set_result(answer)


def tried(
    templates: Mapping[str, str],
    schemas: Mapping[str, dict[str, Any]],
    row: Mapping[str, Any],
    names: Sequence[str],
    limit_s: float = LIMIT_S,
) -> None:
    """Takes all templates in and fills those of the names with the row, in a process. Blocks, no longer than the limit
    and the time that a process may take to start.

    Raises Refused naming the template.
    """
    lines = line_of({"templates": dict(templates), "schemas": dict(schemas)})
    lines += b"".join(line_of({"row": row, "texts": [name]}) for name in names)
    try:
        ended = subprocess.run(
            PROGRAM, input=lines, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False,
            timeout=limit_s + _TRIAL_START_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        name = _next_one(templates, names, (error.stdout or b"").count(b"\n"))
        raise Refused(name, f"takes longer than {limit_s:g} s on the first row") from error
    answers = [json.loads(line) for line in ended.stdout.splitlines()]
    for name, answer in zip(("", *names), answers, strict=False):
        if "refused" in answer:
            raise Refused(*answer["refused"])
        if "failed" in answer:
            raise Refused(name, f"fails on the first row: {answer['failed']}")
    if len(answers) <= len(names):
        name = _next_one(templates, names, len(answers))
        raise Refused(name, "ends the process that works on it (too much memory, most often)")


def _next_one(templates: Mapping[str, str], names: Sequence[str], answered: int) -> str:
    """Which template is worked on after so many answers, the first of them to all templates."""
    return names[max(0, answered - 1)] if names else next(iter(templates))


def _refuse(task: _Task, error: DataGenError) -> None:
    if not task.done.done():
        task.done.set_exception(error)
        task.done.exception()  # an attempt that was given up asks no more
