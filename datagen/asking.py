"""Strategies ask in words; here their questions become chunks that keep the engine busy.

Every attempt awaits its own answers. Whatever is waiting goes out as soon as there is room in the window, many
attempts' questions in one request, without barriers between them.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from control.errors import JobError, WrongWeights
from control.ports import BatchEngine
from stepserve.contract import MAX_BATCH_ITEMS, BatchItem, BatchOutput, BatchRequest, ModelRef

_Waiting = tuple[BatchItem, "asyncio.Future[BatchOutput]"]


class EngineFeed:
    """As a context; leaving it gives up what is still asked. `busy_s`: how long at least one request was out."""

    def __init__(
        self,
        engine: BatchEngine,
        model: ModelRef,
        *,
        chunk_items: int,
        window_items: int,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._model = model
        self._chunk_items = min(chunk_items, MAX_BATCH_ITEMS)
        self._window_items = window_items
        self._clock_s = clock_s
        self._waiting: deque[_Waiting] = deque()
        self._requests: dict[asyncio.Task[None], list[_Waiting]] = {}
        self._changed = asyncio.Event()
        self._failure: Exception | None = None
        self._dispatcher: asyncio.Task[None] | None = None
        self._finished_busy_s = 0.0
        self._busy_since_s: float | None = None

    async def __aenter__(self) -> Self:
        self._dispatcher = asyncio.create_task(self._dispatch(), name="engine feed")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._dispatcher is not None
        tasks = [self._dispatcher, *self._requests]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._fail(JobError("the run is over"))

    @property
    def busy_s(self) -> float:
        running_s = 0.0 if self._busy_since_s is None else self._clock_s() - self._busy_since_s
        return self._finished_busy_s + running_s

    @property
    def free_items(self) -> int:
        """How many more questions may be asked before as many wait or are out as may be out."""
        return max(0, self._window_items - len(self._waiting) - self._out_items)

    @property
    def _out_items(self) -> int:
        return sum(map(len, self._requests.values()))

    async def ask(self, items: Sequence[BatchItem]) -> list[BatchOutput]:
        """The answers, in order; a failing item fails alone. Raises what the engine raises, WrongWeights, JobError."""
        if self._failure is not None:
            raise self._failure
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[BatchOutput]] = [loop.create_future() for _ in items]
        self._waiting.extend(zip(items, futures, strict=True))
        self._changed.set()
        return [await future for future in futures]

    async def _dispatch(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            await asyncio.sleep(0)  # attempts that were woken together ask together
            while self._waiting and self._failure is None:
                free = self._window_items - self._out_items
                count = min(self._chunk_items, free, len(self._waiting))
                if count <= 0 or (count < self._chunk_items and count < len(self._waiting)):
                    break
                self._send([self._waiting.popleft() for _ in range(count)])

    def _send(self, chunk: list[_Waiting]) -> None:
        if not self._requests:
            self._busy_since_s = self._clock_s()
        task = asyncio.create_task(self._answer(chunk))
        self._requests[task] = chunk
        task.add_done_callback(self._answered)

    def _answered(self, task: "asyncio.Task[None]") -> None:
        chunk = self._requests.pop(task)
        if not self._requests and self._busy_since_s is not None:
            self._finished_busy_s += self._clock_s() - self._busy_since_s
            self._busy_since_s = None
        error = JobError("the run is over") if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            for _, future in chunk:
                _set_failure(future, error)
            self._fail(error)
        self._changed.set()

    async def _answer(self, chunk: list[_Waiting]) -> None:
        result = await self._engine.generate(
            BatchRequest(model=self._model.id, digest=self._model.digest, items=[item for item, _ in chunk])
        )
        if result.digest != self._model.digest:
            raise WrongWeights(f"{self._model.id}: asked {self._model.digest}, answered by {result.digest}")
        if len(result.outputs) != len(chunk):
            raise JobError(f"the engine answered {len(result.outputs)} of {len(chunk)} items")
        for (_, future), output in zip(chunk, result.outputs, strict=True):
            if not future.done():
                future.set_result(output)

    def _fail(self, error: Exception) -> None:
        self._failure = self._failure or error
        while self._waiting:
            _set_failure(self._waiting.popleft()[1], error)


class Asking:
    """One attempt's way to the engine; counts what it cost."""

    def __init__(self, feed: EngineFeed) -> None:
        self._feed = feed
        self.items = 0
        self.errors = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0

    async def __call__(self, items: Sequence[BatchItem]) -> list[BatchOutput]:
        outputs = await self._feed.ask(items)
        self.items += len(outputs)
        for output in outputs:
            self.errors += output.error is not None
            self.prompt_tokens += output.prompt_tokens
            self.completion_tokens += output.completion_tokens
        return outputs


def _set_failure(future: "asyncio.Future[BatchOutput]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # an attempt that was given up asks no more: its failure is no news to anyone
