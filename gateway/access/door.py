"""Authentication: an ASGI layer before every route, which decides who comes in and how much they may ask."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial

from prometheus_client import Counter

from gateway.access.allowance import KeyQuotas
from gateway.access.browser import BrowserGuard
from gateway.access.credentials import check_path, stamp, token_of
from gateway.access.deadlines import Deadlines, MayGoOn
from gateway.access.keyring import EVERYBODY, NOBODY, TRAINER, Caller, Keyring
from gateway.access.meter import METER, Meter
from gateway.access.proxies import TrustedProxies
from gateway.access.trainers import Trainers
from gateway.access.usage import UsageTotals
from gateway.errors import Forbidden, GatewayError, RequestTimeout, RequestTooLarge
from gateway.http.asgi import App, ClientDisconnected, Message, Receive, Scope, Send, read_body
from gateway.http.encodings import check_encoding, plain_body
from gateway.http.tracked_send import TrackedSend, tracked
from gateway.request.body import RequestBody
from gateway.request.bounds import RequestBounds
from gateway.request.context import RequestContext
from gateway.request.estimate import RequestEstimate
from stepserve.access import ANONYMOUS, SCOPES, Demand, allowed
from stepserve.request_id import key_id

log = logging.getLogger(__name__)

REFUSALS = Counter(
    "stepserve_access_refusals_total", "Requests that were refused before any work, by reason.", ["code"]
)
_LOGGED_EVERY_S = 10.0
_START_PATIENCE_S = 2.0  # of a request that comes before control has told the keys


@dataclass(slots=True)
class AuthMiddleware:
    """`app` is what lies behind. Nothing of it is reached by who may not."""

    app: App
    keyring: Keyring
    quotas: KeyQuotas
    usage: UsageTotals
    deadlines: Deadlines
    guard: BrowserGuard
    proxies: TrustedProxies
    max_request_bytes: int
    body_timeout_s: float
    bounds: RequestBounds = field(default_factory=RequestBounds.unbounded)
    trainers: Trainers = field(default_factory=Trainers)
    _refused: int = field(default=0, init=False)
    _logged_s: float = field(default=0.0, init=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # none of our routes; and a door that looks at one protocol must shut others
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.proxies.see(scope)
        context = RequestContext.of(scope)
        response = tracked(send, scope)
        row, demanded = context.match.row, context.match.scope
        try:
            check_path(scope["path"])
            if demanded != "open" and not self.keyring.is_known:
                await self.keyring.known(_START_PATIENCE_S)
            caller = self._caller(scope, context)
            stamp(scope, caller.id, caller.scopes)
            if row is not None and row.time != "answer" and row.body == "request":
                check_encoding(scope)
            key_id.set(caller.id)
            context.key_class = _class_of(caller)
            context.consents = caller is EVERYBODY if caller.record is None else caller.record.keep_traffic
            async with self._admitted(caller, demanded):
                if row is not None and row.time == "answer":
                    await self._infer(scope, receive, response, caller)
                elif demanded == "open":
                    await self.app(scope, self._in_time(receive), response)
                else:
                    may_go_on = self._check_of(caller)
                    await self.deadlines.attend(self.app, scope, self._in_time(receive), response, may_go_on)
        except GatewayError as error:
            self._note(error, scope)
            await response.fail(error)
        except ClientDisconnected:
            return

    def _check_of(self, caller: Caller) -> MayGoOn:
        return partial(self.keyring.check, caller)

    def _caller(self, scope: Scope, context: RequestContext) -> Caller:
        """Raises Unauthorized, Forbidden, Unserved."""
        demanded = context.match.scope
        context.credential = token = token_of(scope["headers"])
        if demanded == "open":
            try:
                caller = self.keyring.caller(token)
            except GatewayError:
                caller = NOBODY
            context.minimal = caller is NOBODY
            return caller
        if (
            token is None
            and self.keyring.demands_keys
            and self.keyring.closed is None
            and self.trainers.has(scope)
            and allowed(TRAINER.scopes, demanded)
        ):
            self.guard.check(scope)
            return TRAINER
        caller = self.keyring.caller(token)
        if caller is EVERYBODY:
            self.guard.check(scope)
        elif not allowed(caller.scopes, demanded):
            has = ", ".join(name for name in SCOPES if name in caller.scopes)
            raise Forbidden(
                f"The key {caller.id} has the scopes {has}; {scope['method']} {scope['path']} needs {demanded}."
            )
        return caller

    @contextlib.asynccontextmanager
    async def _admitted(self, caller: Caller, demanded: Demand) -> AsyncIterator[None]:
        record = caller.record
        if record is None or demanded == "open":
            yield
            return
        await self.quotas.enter(record)
        try:
            yield
        finally:
            self.quotas.leave(record)

    async def _infer(self, scope: Scope, receive: Receive, send: TrackedSend, caller: Caller) -> None:
        context = RequestContext.of(scope)
        body = await self._body(scope, receive)
        context.body = RequestBody(await plain_body(scope, body, self.max_request_bytes))
        context.estimate = estimate = await self.bounds.estimate(context.body, scope["path"])
        meter = Meter()
        METER.set(meter)
        may_go_on = self._check_of(caller)
        record = caller.record
        if record is None:
            await self.deadlines.serve(self.app, scope, receive, send, meter, may_go_on)
            if caller.id != ANONYMOUS:
                self.usage.add(caller.id, meter)
            return
        reserved = await self.quotas.reserve(record, estimate)
        try:
            await self.deadlines.serve(self.app, scope, receive, send, meter, may_go_on)
        finally:
            self.usage.add(record.id, meter)
            await self.quotas.settle(record, reserved, _used(meter, estimate))

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """Raises RequestTooLarge, before anything was read where its length was announced; RequestTimeout."""
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self.max_request_bytes:
                raise RequestTooLarge(self.max_request_bytes)
        try:
            async with asyncio.timeout(self.body_timeout_s):
                return await read_body(receive, self.max_request_bytes)
        except TimeoutError:
            raise RequestTimeout(
                f"The request did not arrive within {self.body_timeout_s:g} s (setting limits.body_timeout_s)."
            ) from None

    def _in_time(self, receive: Receive) -> Receive:
        """A `receive` that waits a bounded time for each piece of the body, and for ever for the client to leave."""
        complete = False

        async def received() -> Message:
            nonlocal complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout(self.body_timeout_s):
                    message = await receive()
            except TimeoutError:
                raise RequestTimeout(f"The client sent nothing more for {self.body_timeout_s:g} s.") from None
            complete = not message.get("more_body", False)
            return message

        return received

    def _note(self, error: GatewayError, scope: Scope) -> None:
        """Counts every refusal and logs one in a while: a flood of them must not fill the disk."""
        REFUSALS.labels(error.code).inc()
        self._refused += 1
        now = time.monotonic()
        if now - self._logged_s > _LOGGED_EVERY_S:
            client = scope.get("client")
            log.warning(
                "refused %d since last told; %s %s of %s: %s",
                self._refused,
                scope["method"],
                scope["path"],
                client[0] if client else "?",
                error,
            )
            self._refused, self._logged_s = 0, now


def _class_of(caller: Caller) -> str:
    if caller is EVERYBODY or caller is NOBODY:
        return ANONYMOUS
    return next(
        (name for name in ("admin", "fleet", "weights", "jobs", "infer", "metrics") if name in caller.scopes), ANONYMOUS
    )


def _used(meter: Meter, estimate: RequestEstimate) -> int:
    """What is charged. An engine that began and was left before it said anything has at least read the prompt."""
    used = meter.prompt_tokens + meter.completion_tokens
    return used or (estimate.prompt_tokens if meter.begun else 0)
