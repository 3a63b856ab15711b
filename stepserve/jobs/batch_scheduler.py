"""Keeps the engine busy: items become chunks, many of them in flight, and a new one goes out as soon as one is back."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Generic, Self, TypeVar

from stepserve.contract import (
    MAX_BATCH_ITEMS,
    AskItem,
    AskOutput,
    AskRequest,
    BatchItem,
    BatchOutput,
    BatchRequest,
    BatchSampling,
    ModelRef,
)
from stepserve.jobs.errors import JobError, WrongWeights
from stepserve.jobs.ports import BatchEngine

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Send = Callable[[list[Item]], Awaitable[Sequence[Answer]]]
"""Asks one chunk; the answers come in the items' order: [n_items]."""


def generating(
    engine: BatchEngine, model: ModelRef, sampling: BatchSampling | None = None
) -> Send[BatchItem, BatchOutput]:
    """Sends generations. Raises what the engine raises, and WrongWeights for an answer from another digest."""

    async def send(items: list[BatchItem]) -> list[BatchOutput]:
        request = BatchRequest(
            model=model.id, digest=model.digest, sampling=sampling or BatchSampling(), items=items
        )  # fmt: skip
        result = await engine.generate(request)
        _check_digest(model, result.digest)
        if not result.version:  # the model's files
            return result.outputs
        return [output.model_copy(update={"model_version": result.version}) for output in result.outputs]

    return send


def asking(engine: BatchEngine, model: ModelRef) -> Send[AskItem, AskOutput]:
    """Sends whole HTTP requests. Raises as `generating` does."""

    async def send(items: list[AskItem]) -> list[AskOutput]:
        result = await engine.ask(AskRequest(model=model.id, digest=model.digest, items=items))
        _check_digest(model, result.digest)
        return result.outputs

    return send


class BatchScheduler(Generic[Item, Answer]):
    """At most `chunk_items` in a request, at most `window_items` asked and not yet answered, be it a number or what a
    function gives at the moment.

    One instance is used in one of two ways: `stream` for a source whose items are all there, `ask` for many callers
    that each wait for their own answers. Leaving the context cancels the requests in flight.
    """

    def __init__(
        self,
        send: Send[Item, Answer],
        *,
        chunk_items: int,
        window_items: int | Callable[[], int],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._send = send
        self._window_items: Callable[[], int] = window_items if callable(window_items) else partial(int, window_items)
        self._chunk_items = min(chunk_items, self._window_items(), MAX_BATCH_ITEMS)
        self._clock_s = clock_s
        self._in_flight: dict[asyncio.Task[Sequence[Answer]], int] = {}
        self._waiting: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._dispatch_is_due = False
        self._failure: Exception | None = None
        self._finished_busy_s = 0.0
        self._busy_since_s: float | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._fail(JobError("the run is over"))
        await _cancel(list(self._in_flight))

    @property
    def busy_s(self) -> float:
        """How long at least one request was in flight."""
        running_s = 0.0 if self._busy_since_s is None else self._clock_s() - self._busy_since_s
        return self._finished_busy_s + running_s

    @property
    def free_items(self) -> int:
        """How many more may be asked before the window is full."""
        return max(0, self._window_items() - len(self._waiting) - sum(self._in_flight.values()))

    async def stream(
        self, items: Iterable[Item], *, reads_in_thread: bool = False
    ) -> AsyncGenerator[list[tuple[Item, Answer]]]:
        """Yields each chunk with its answers when it is complete, in no fixed order.

        Reads `items` only as far as they are asked, `reads_in_thread` in a thread. An error of a chunk is raised after
        the chunks that were complete by then; those in flight are cancelled, as they are when the generator is closed,
        which is its caller's duty. Raises what `send` raises, JobError for an answer of another length, and what
        `items` raises.
        """
        source = iter(items)
        mine: dict[asyncio.Task[Sequence[Answer]], list[Item]] = {}
        try:
            await self._refill(mine, source, reads_in_thread)
            while mine:
                await asyncio.wait(mine, return_when=asyncio.FIRST_COMPLETED)
                finished = {task: mine.pop(task) for task in list(mine) if task.done()}
                for task in finished:
                    self._returned(task)
                failed = [task for task in finished if task.cancelled() or task.exception()]
                if not failed:
                    await self._refill(mine, source, reads_in_thread)
                for task, chunk in finished.items():
                    if task not in failed:
                        yield list(zip(chunk, task.result(), strict=True))
                if failed:
                    failed[0].result()
        finally:
            await _cancel(list(mine))

    async def ask(self, items: Sequence[Item]) -> list[Answer]:
        """The answers, in order. Whatever waits goes out as soon as there is room, many callers' items in one request.

        After one request has failed every other call fails with its error too. Raises as `stream` does.
        """
        if self._failure is not None:
            raise self._failure
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Answer]] = [loop.create_future() for _ in items]
        self._waiting.extend(zip(items, futures, strict=True))
        self._dispatch_soon()
        return [await future for future in futures]

    async def _refill(
        self, mine: dict[asyncio.Task[Sequence[Answer]], list[Item]], source: Iterator[Item], reads_in_thread: bool
    ) -> None:
        while (count := min(self._chunk_items, self.free_items)) > 0:
            piece = islice(source, count)
            chunk = await asyncio.to_thread(list, piece) if reads_in_thread else list(piece)
            if not chunk:
                return
            mine[self._begin(chunk)] = chunk

    def _dispatch_soon(self) -> None:
        """Not at once: callers that were woken together ask together."""
        if not self._dispatch_is_due:
            self._dispatch_is_due = True
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._dispatch)

    def _dispatch(self) -> None:
        self._dispatch_is_due = False
        while self._waiting and self._failure is None:
            free = self._window_items() - sum(self._in_flight.values())
            count = min(self._chunk_items, free, len(self._waiting))
            if count <= 0 or (count < self._chunk_items and count < len(self._waiting)):
                return
            chunk = [self._waiting.popleft() for _ in range(count)]
            task = self._begin([item for item, _ in chunk])
            task.add_done_callback(partial(self._hand_out, [future for _, future in chunk]))

    def _hand_out(self, futures: list["asyncio.Future[Answer]"], task: "asyncio.Task[Sequence[Answer]]") -> None:
        error = JobError("the run is over") if task.cancelled() else task.exception()
        if error is None:
            for future, answer in zip(futures, task.result(), strict=True):
                if not future.done():
                    future.set_result(answer)
        elif isinstance(error, Exception):
            for future in futures:
                _set_failure(future, error)
            self._fail(error)
        asyncio.get_running_loop().call_soon(self._dispatch_soon)  # those woken just now may have more to ask

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        while self._waiting:
            _set_failure(self._waiting.popleft()[1], error)

    def _begin(self, chunk: list[Item]) -> "asyncio.Task[Sequence[Answer]]":
        if not self._in_flight:
            self._busy_since_s = self._clock_s()
        task = asyncio.create_task(self._answers(chunk))
        self._in_flight[task] = len(chunk)
        task.add_done_callback(self._returned)
        return task

    async def _answers(self, chunk: list[Item]) -> Sequence[Answer]:
        answers = await self._send(chunk)
        if len(answers) != len(chunk):
            raise JobError(f"the engine answered {len(answers)} of {len(chunk)} items")
        return answers

    def _returned(self, task: "asyncio.Task[Sequence[Answer]]") -> None:
        if self._in_flight.pop(task, None) is not None and not self._in_flight and self._busy_since_s is not None:
            self._finished_busy_s += self._clock_s() - self._busy_since_s
            self._busy_since_s = None


async def _cancel(tasks: Sequence["asyncio.Task[Sequence[Answer]]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _set_failure(future: "asyncio.Future[Answer]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # a caller that was given up asks no more: its failure is no news to anyone


def _check_digest(model: ModelRef, answered_by: str) -> None:
    if answered_by != model.digest:
        raise WrongWeights(f"{model.id}: asked {model.digest}, answered by {answered_by}")
