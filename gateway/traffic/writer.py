"""Makes records of what was asked and answered, away from the event loop, and has them brought to control."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime

from prometheus_client import Counter

from gateway.errors import ControlDown
from gateway.filtering.answers import Shape
from gateway.filtering.filter import Blocked
from gateway.request.body import RequestBody
from gateway.sidecar.control_link import ControlProxy
from gateway.sidecar.hand_over import HandOver
from gateway.traffic.redactor import Redactor
from gateway.traffic.said import NotText, answered, asked
from stepserve.traffic import CONTROL_TRAFFIC_PATH, KeptExchange, TrafficSettings

OUTCOMES = Counter(
    "stepserve_traffic_exchanges_total", "Answered requests that were to be kept, by what came of it.", ["outcome"]
)

_MAX_HELD_BYTES = 64 * 1024 * 1024
_MAX_WAITING_BYTES = 64 * 1024 * 1024
_SETTLE_S = 5.0
_LAST_RECORDS_S = 1.0


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its whole answer as they were sent. `held_bytes` is what the writer was asked to hold for it."""

    owner: str
    request_id: str
    path: str
    shape: Shape
    model: str
    digest: str
    body: bytes
    content: bytes
    is_stream: bool
    held_bytes: int
    answered_at: datetime = field(default_factory=lambda: datetime.now(UTC))


class TrafficWriter:
    """`run` must be going on. What waits is bounded; beyond that exchanges are dropped, and counted."""

    def __init__(
        self,
        control: ControlProxy,
        redactor: Redactor,
        settings: TrafficSettings,
        max_held_bytes: int = _MAX_HELD_BYTES,
    ) -> None:
        self._redactor = redactor
        self._max_exchange_bytes = settings.max_exchange_bytes
        self._max_held_bytes = max_held_bytes
        self._held_bytes = 0
        self._hand_over = HandOver(control, CONTROL_TRAFFIC_PATH, "exchanges", OUTCOMES, _MAX_WAITING_BYTES)
        self._raw: deque[tuple[Exchange, asyncio.Future[None]]] = deque()
        self._pending: set[asyncio.Future[None]] = set()
        self._some = asyncio.Event()

    def hold(self, size_bytes: int) -> bool:
        """Whether there is room for so many more bytes of answers that are under way."""
        if self._held_bytes + size_bytes > self._max_held_bytes:
            return False
        self._held_bytes += size_bytes
        return True

    def release(self, size_bytes: int) -> None:
        self._held_bytes -= size_bytes

    def take(self, exchange: Exchange) -> None:
        """Its `held_bytes` are released here."""
        done = asyncio.get_running_loop().create_future()
        self._pending.add(done)
        done.add_done_callback(self._pending.discard)
        self._raw.append((exchange, done))
        self._some.set()

    async def settled(self) -> None:
        """Waits until control has what was answered before. Raises ControlDown after some seconds."""
        if self._pending and (await asyncio.wait(set(self._pending), timeout=_SETTLE_S))[1]:
            raise ControlDown("It keeps traffic: ask again.")

    async def run(self) -> None:
        """Until cancelled; then what waits is brought to control, if that is quick."""
        handing = asyncio.create_task(self._hand_over.run(), name="hand over")
        try:
            while True:
                await self._some.wait()
                while self._raw:
                    exchange = self._raw[0][0]
                    self._record(await asyncio.to_thread(self._made, exchange))
                self._some.clear()
        finally:
            until_s = time.monotonic() + _LAST_RECORDS_S
            while self._raw and time.monotonic() < until_s:
                self._record(self._made(self._raw[0][0]))
            handing.cancel()
            await asyncio.gather(handing, return_exceptions=True)

    def _record(self, made: KeptExchange | str) -> None:
        """Of the oldest one: the record, or why there is none."""
        exchange, done = self._raw.popleft()
        self.release(exchange.held_bytes)
        if isinstance(made, str):
            OUTCOMES.labels(made).inc()
            done.set_result(None)
            return
        handed = self._hand_over.put(made.model_dump())
        if handed is None:
            done.set_result(None)
        else:
            handed.add_done_callback(lambda _: done.set_result(None))

    def _made(self, exchange: Exchange) -> KeptExchange | str:
        """Blocks."""
        try:
            prompt = asked(exchange.shape, RequestBody(exchange.body))
            said = answered(exchange.shape, exchange.content, is_stream=exchange.is_stream)
        except (NotText, TypeError, AttributeError, KeyError):  # another host's answer may be of any shape
            return "not_text"
        try:
            record = KeptExchange(
                owner=exchange.owner,
                request_id=exchange.request_id,
                answered_at=exchange.answered_at,
                path=exchange.path,
                model=exchange.model,
                digest=exchange.digest,
                prompt=self._redactor.prompt(prompt),
                answer=self._redactor.answer(said.text),
                finish_reason=said.finish_reason,
            )
        except Blocked:
            return "not_redacted"
        return record if len(record.model_dump_json().encode()) <= self._max_exchange_bytes else "too_large"
