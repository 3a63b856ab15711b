"""What ends an answer before it is whole: its time is up, its client does not take it, its key is not valid any more.

One task looks after all of them.
"""

import asyncio
import time
from collections.abc import Callable

from gateway.access.meter import Meter
from gateway.errors import AnswerTimeout, GatewayError
from gateway.http.asgi import App, Receive, Scope, Send
from gateway.http.tracked_send import TrackedSend, tracked
from stepserve.access_settings import LimitSettings

MayGoOn = Callable[[], None]
"""Raises GatewayError when who asked may not ask any more."""


class _Exchange:
    """One request and its answer. `meter`: None where no engine is asked."""

    def __init__(self, response: TrackedSend, meter: Meter | None, begun_s: float, may_go_on: MayGoOn) -> None:
        self.task = asyncio.current_task()
        self.meter = meter
        self.begun_s = begun_s
        self.barred = False
        self._may_go_on = may_go_on
        self.response = response
        self.is_ended = False

    def end(self, error: GatewayError) -> None:
        """Stops the request for `error`, unless something has stopped it already."""
        if not self.is_ended:
            self.is_ended = True
            self.response.give_up(error)
            if self.meter is not None:
                self.meter.cancel()
            if self.task is not None:
                self.task.cancel()

    def look_at_key(self) -> None:
        """Ends the request at the second look at a key that is valid no more: who revokes his own is told so first."""
        try:
            self._may_go_on()
        except GatewayError as error:
            if self.barred:
                self.end(error)
            self.barred = True


class Deadlines:
    """`run` must be going on: it ends what is overdue, within `tick_s`."""

    def __init__(self, limits: LimitSettings, tick_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._tick_s = tick_s
        self._clock = clock
        self._exchanges: set[_Exchange] = set()
        self._others: set[_Exchange] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_flight(self) -> int:
        return len(self._exchanges)

    async def until_idle(self) -> None:
        await self._idle.wait()

    async def serve(
        self, app: App, scope: Scope, receive: Receive, send: Send, meter: Meter, may_go_on: MayGoOn
    ) -> None:
        """Calls the app; what it does in an engine is noted in `meter`."""
        exchange = _Exchange(tracked(send, scope), meter, self._clock(), may_go_on)
        self._exchanges.add(exchange)
        self._idle.clear()
        await self._answer(exchange, app, scope, receive)

    async def attend(self, app: App, scope: Scope, receive: Receive, send: Send, may_go_on: MayGoOn) -> None:
        """Calls an app that asks no engine: it may take as long as it likes, while who asked may ask."""
        exchange = _Exchange(tracked(send, scope), None, self._clock(), may_go_on)
        self._others.add(exchange)
        await self._answer(exchange, app, scope, receive)

    async def _answer(self, exchange: _Exchange, app: App, scope: Scope, receive: Receive) -> None:
        try:
            await app(scope, receive, exchange.response)
        except asyncio.CancelledError:
            if not exchange.is_ended or exchange.task is None:
                raise
            exchange.task.uncancel()
            self._leave(exchange)
            await exchange.response.tell()
        finally:
            self._leave(exchange)

    def _leave(self, exchange: _Exchange) -> None:
        self._exchanges.discard(exchange)
        self._others.discard(exchange)
        if not self._exchanges:
            self._idle.set()

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._tick_s)
            now = self._clock()
            for exchange in list(self._exchanges):
                if (overdue := self._overdue(exchange, now)) is not None:
                    exchange.end(overdue)
            for exchange in [*self._exchanges, *self._others]:
                exchange.look_at_key()

    def end_all(self, error: GatewayError) -> None:
        """Ends every request; its client is told `error`."""
        for exchange in list(self._exchanges):
            exchange.end(error)

    def _overdue(self, exchange: _Exchange, now: float) -> GatewayError | None:
        response = exchange.response
        blocked_s = now - response.blocked_since_s if response.blocked_since_s is not None else 0.0
        if blocked_s > self._limits.stalled_client_timeout_s:
            return AnswerTimeout(f"The client took none of its answer for {blocked_s:.0f} s.")
        streams = response.started and response.is_stream
        limit_s = self._limits.stream_timeout_s if streams else self._limits.request_timeout_s
        if now - exchange.begun_s <= limit_s:
            return None
        name = "stream_timeout_s" if streams else "request_timeout_s"
        return AnswerTimeout(f"The answer took longer than {limit_s:g} s (setting limits.{name}).")
