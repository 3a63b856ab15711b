"""Brings records to control, behind the clients' backs: no answer waits for a database."""

import asyncio
import logging
from collections import deque
from dataclasses import dataclass

import msgspec
from prometheus_client import Counter

from gateway.errors import ControlDown
from gateway.sidecar.control_link import ControlProxy
from stepserve.stored_responses import MOST_VALUES

log = logging.getLogger(__name__)

_AT_ONCE = 64
_AT_ONCE_BYTES = 4 * 1024 * 1024
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0
_LAST_TRY_S = 2.0


@dataclass(slots=True)
class _Waiting:
    content: bytes
    values: int
    done: asyncio.Future[None]


class HandOver:
    """`run` must be going on. While control is away records wait here, up to so many bytes; then none are taken.

    `path` takes `{name: [record, …]}` and may be told the same record twice. `counter` counts, by `outcome`, what was
    `kept`, `refused` here for lack of room, and `dropped` because control did not want it.
    """

    def __init__(self, control: ControlProxy, path: str, name: str, counter: Counter, max_waiting_bytes: int) -> None:
        self._control = control
        self._path = path
        self._name = name
        self._counter = counter
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting_bytes = 0
        self._queue: deque[_Waiting] = deque()
        self._some = asyncio.Event()
        self._one_by_one = 0  # of the oldest: one of them made control refuse them all

    @property
    def has_room(self) -> bool:
        return self._waiting_bytes < self._max_waiting_bytes

    def put(self, record: object) -> asyncio.Future[None] | None:
        """What is done once control has it, or will never have it. None: it is not taken, since too much waits or it is
        larger than control reads.
        """
        content = msgspec.json.encode(record)
        values = sum(content.count(each) for each in b",[{")
        if not self.has_room or values > MOST_VALUES:
            self._counter.labels("refused").inc()
            return None
        waiting = _Waiting(content, values, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._waiting_bytes += len(content)
        self._some.set()
        return waiting.done

    async def run(self) -> None:
        """Until cancelled; then what waits is brought there, if that is quick."""
        pause_s = _FIRST_PAUSE_S
        try:
            while True:
                await self._some.wait()
                if await self._write():
                    pause_s = _FIRST_PAUSE_S
                else:
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        finally:
            try:
                async with asyncio.timeout(_LAST_TRY_S):
                    while self._queue and await self._write():
                        pass
            except TimeoutError:
                pass
            if self._queue:
                log.warning("%d %s were not kept: control did not take them in time", len(self._queue), self._name)

    async def _write(self) -> bool:
        """Some of what waits, oldest first; False: control cannot take it now."""
        batch = self._batch()
        content = b'{"%s":[%s]}' % (self._name.encode(), b",".join(each.content for each in batch))
        try:
            answer = await self._control.request("POST", self._path, msgspec.Raw(content))
        except ControlDown:
            return False
        if answer.status_code in (429, 503, 507):
            return False
        taken = answer.status_code == 200
        if not taken and len(batch) > 1:
            self._one_by_one = len(batch)
            return True
        self._one_by_one = max(0, self._one_by_one - len(batch))
        if not taken:
            said = answer.text
            log.error("%d %s are not kept: control answers %d: %s", len(batch), self._name, answer.status_code, said)
        for each in batch:
            self._queue.popleft()
            self._waiting_bytes -= len(each.content)
            each.done.set_result(None)
        self._counter.labels("kept" if taken else "dropped").inc(len(batch))
        if not self._queue:
            self._some.clear()
        return True

    def _batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size_bytes = values = 0
        for each in self._queue:
            size_bytes, values = size_bytes + len(each.content), values + each.values
            if batch and (
                self._one_by_one or len(batch) == _AT_ONCE or size_bytes > _AT_ONCE_BYTES or values > MOST_VALUES
            ):
                break
            batch.append(each)
        return batch
