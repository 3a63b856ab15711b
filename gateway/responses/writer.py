"""Brings answers to control, behind the clients' backs: no answer waits for a database."""

import asyncio
import logging
from collections import deque
from dataclasses import dataclass

import msgspec
from prometheus_client import Counter

from gateway.errors import ControlDown
from gateway.sidecar.control_link import ControlProxy
from stepserve.stored_responses import CONTROL_KEEP_PATH, MOST_VALUES, KeptResponse

log = logging.getLogger(__name__)

KEPT = Counter("stepserve_stored_responses_total", "Responses that were to be kept, by what came of it.", ["outcome"])

_MAX_WAITING_BYTES = 64 * 1024 * 1024
_AT_ONCE = 64
_AT_ONCE_BYTES = 4 * 1024 * 1024
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0
_LAST_TRY_S = 2.0


@dataclass(slots=True)
class _Waiting:
    content: bytes
    values: int
    ids: tuple[tuple[str, str], ...]
    done: asyncio.Future[None]


class ResponseWriter:
    """`run` must be going on. While control is away answers wait here, up to so many bytes; then none are taken.

    `keeps`: false where there is no control that would ever take one, on a member of a fleet.
    """

    def __init__(
        self, control: ControlProxy, max_waiting_bytes: int = _MAX_WAITING_BYTES, *, keeps: bool = True
    ) -> None:
        self._keeps = keeps
        self._control = control
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting_bytes = 0
        self._queue: deque[_Waiting] = deque()
        self._pending: dict[tuple[str, str], set[asyncio.Future[None]]] = {}
        self._some = asyncio.Event()
        self._one_by_one = 0  # of the oldest: one of them made control refuse them all

    @property
    def has_room(self) -> bool:
        return self._keeps and self._waiting_bytes < self._max_waiting_bytes

    def keep(self, kept: KeptResponse) -> bool:
        """Whether it is taken: it is not when too much waits, or it is larger than control reads."""
        if not self._keeps:
            return False
        content = msgspec.json.encode(kept.model_dump())
        values = sum(content.count(each) for each in b",[{")
        if not self.has_room or values > MOST_VALUES:
            KEPT.labels("refused").inc()
            return False
        ids = [(kept.owner, str(kept.response["id"]))]
        if kept.conversation_id is not None:
            ids.append((kept.owner, kept.conversation_id))
        waiting = _Waiting(content, values, tuple(ids), asyncio.get_running_loop().create_future())
        for each in ids:
            self._pending.setdefault(each, set()).add(waiting.done)
        self._queue.append(waiting)
        self._waiting_bytes += len(content)
        self._some.set()
        return True

    async def settled(self, owner: str, name: str, timeout_s: float) -> None:
        """Waits until control has what was answered under that id before. Raises ControlDown after `timeout_s`."""
        waited_for = self._pending.get((owner, name))
        if waited_for and (await asyncio.wait(set(waited_for), timeout=timeout_s))[1]:
            raise ControlDown("It keeps responses: ask again, or send the whole conversation in `input`.")

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
                log.warning("%d responses were not kept: control did not take them in time", len(self._queue))

    async def _write(self) -> bool:
        """Some of what waits, oldest first; False: control cannot take it now."""
        batch = self._batch()
        content = b'{"responses":[' + b",".join(each.content for each in batch) + b"]}"
        try:
            answer = await self._control.request("POST", CONTROL_KEEP_PATH, msgspec.Raw(content))
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
            log.error("%d responses are not kept: control answers %d: %s", len(batch), answer.status_code, answer.text)
        for each in batch:
            self._queue.popleft()
            self._settle(each)
        KEPT.labels("kept" if taken else "dropped").inc(len(batch))
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

    def _settle(self, waiting: _Waiting) -> None:
        self._waiting_bytes -= len(waiting.content)
        waiting.done.set_result(None)
        for each in waiting.ids:
            left = self._pending.get(each, set())
            left.discard(waiting.done)
            if not left:
                self._pending.pop(each, None)
