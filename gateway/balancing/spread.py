"""Asks the members of the fleet for an answer: one, and another for as long as the client has seen nothing of it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from gateway.balancing.asked import Asked
from gateway.balancing.member import GATEWAY_HEADER, Member, outcome_of
from gateway.balancing.members import Members
from gateway.balancing.metrics import RETRIES, WAITING
from gateway.balancing.trial import Trial
from gateway.errors import GatewayError, Unserved, VersionUnavailable
from gateway.http.asgi import Receive, Scope, unless_disconnected
from gateway.http.tracked_send import TrackedSend
from gateway.request.context import RequestContext
from gateway.upstream.errors import UpstreamKeyUnknown, UpstreamMoved
from gateway.upstream.relay import Question, Relay
from gateway.upstream.wire import hops_of
from stepserve.fleet import FleetMember

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # a request that kills engines must not go through a whole fleet
_LOOK_AGAIN_S = 1.0  # while a request waits, though nothing was heard: a doubt may have ended

Here = Callable[[TrackedSend, str | None], Awaitable[None]]
"""Has this gateway answer, with weights of that digest (DigestMismatch otherwise); None: whatever it serves."""


@dataclass(slots=True)
class Spread:
    """`want_news` is told when requests wait for a member that control may know of by now."""

    members: Members
    relay: Relay
    want_news: Callable[[], None]
    max_waiting: int
    hold_timeout_s: float = 300.0
    clock: Callable[[], float] = time.monotonic
    waiting: int = 0

    async def __call__(
        self,
        asked: Asked,
        name: str | None,
        body_for: Callable[[str], bytes],
        here: Here,
        scope: Scope,
        receive: Receive,
        response: TrackedSend,
    ) -> None:
        """Answers the client. `name`: the model that it asks for, which may be another one by the time that somebody
        answers; `body_for` has the body for whoever serves a model.

        Raises GatewayError while nothing was sent, ClientDisconnected; a failure after that cuts the answer off.
        """
        body = body_for(asked.model)
        request = _Request(asked, body, here, scope, receive, response, self.clock() + self.hold_timeout_s)
        while True:
            model = self.members.committed_model(name)
            if model is None:  # a model by its id, which is not the active one any more
                await here(response, None)
                return
            if model != request.asked.model:
                request.asked, request.body = replace(request.asked, model=model), body_for(model)
            member = self.members.choose(request.asked, request.tried)
            if member is not None:
                if await self._is_answered_by(member, request):
                    return
            elif not self.members.balances:
                await here(response, None)
                return
            elif request.failure is not None:
                raise request.failure
            else:
                await self._news(request)

    async def _is_answered_by(self, member: Member, request: "_Request") -> bool:
        """One attempt. False: another member may answer. Raises GatewayError where none is to be asked any more."""
        try:
            with member.working(request.asked.tokens):
                await self._ask(member, request)
        except GatewayError as error:
            outcome = outcome_of(error)
            log.warning("fleet: %s, %s: %s", member.entry.id, outcome, error)
            if request.response.started:
                await request.response.fail(error)
                return True
            if outcome == "answered":
                raise
            if outcome == "moved":
                member.doubt(self.clock())
                self.want_news()
            elif isinstance(error, UpstreamKeyUnknown):
                request.stays_here(error)
            else:
                request.note(member, error)
            RETRIES.labels(outcome).inc()
            return False
        return True

    async def _ask(self, member: Member, request: "_Request") -> None:
        if member.replica is None:
            await self._here(member, request)
            return
        asking = self.relay.attempt(_question(member, request), member.replica, request.response)
        await unless_disconnected(asking, request.receive)

    async def _here(self, member: Member, request: "_Request") -> None:
        trial = Trial(request.response)
        trial.answer.headers[GATEWAY_HEADER] = member.entry.id.encode()
        try:
            served = self.members.here()
            await request.here(trial.answer, served.digest if served is not None else member.entry.digest)
            if trial.refusal is not None:
                raise trial.refusal
        except GatewayError as error:
            if error.status >= 500:
                member.breaker.fail(self.clock())
            raise
        member.breaker.succeed()

    async def _news(self, request: "_Request") -> None:
        """Waits until another member may serve what is asked for. Raises Unserved, VersionUnavailable."""
        left_s = request.until_s - self.clock()
        if left_s <= 0 or self.waiting >= self.max_waiting or self.members.is_past(request.asked):
            raise self._nobody(request.asked)
        changed = self.members.changed()
        self.waiting += 1
        WAITING.set(self.waiting)
        self.want_news()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(min(_LOOK_AGAIN_S, left_s)):
                    await unless_disconnected(changed, request.receive)
        finally:
            self.waiting -= 1
            WAITING.set(self.waiting)

    def _nobody(self, asked: Asked) -> GatewayError:
        if asked.demand is not None:
            return VersionUnavailable(asked.model, str(asked.demand), self.members.newest(asked.model))
        return Unserved(f"No member of the fleet serves `{asked.model}` now ({self.members.states()}).", 5.0)


@dataclass(slots=True)
class _Request:
    """`until_s`: how long it may wait. `tried`: who failed; `failure`: of their reasons the one to be told."""

    asked: Asked
    body: bytes
    here: Here
    scope: Scope
    receive: Receive
    response: TrackedSend
    until_s: float
    tried: set[Member] = field(default_factory=set)
    failure: GatewayError | None = None

    def stays_here(self, error: GatewayError) -> None:
        """Only this gateway may answer: it took a key that members do not know (yet)."""
        self.asked = replace(self.asked, only_here=True)
        self.failure = error

    def note(self, member: Member, error: GatewayError) -> None:
        """Raises the failure once enough members have been tried."""
        self.tried.add(member)
        # Of several reasons a member that is only busy is the one that the client can do something about.
        if self.failure is None or self.failure.status != 429:
            self.failure = error
        if len(self.tried) >= MAX_ATTEMPTS:
            raise self.failure from None


def _question(member: Member, request: _Request) -> Question:
    """With the client's own key: a member has the keys of the fleet, and counts there what it used."""
    asked, scope, entry = request.asked, request.scope, member.entry
    credential = RequestContext.of(scope).credential

    def accepts(headers: Mapping[str, str]) -> None:
        said = (headers.get("x-model-id"), headers.get("x-model-digest"), headers.get("x-model-version"))
        if said not in (_identity(entry), _identity(member.entry)) or not _is_met(asked, said[2]):
            model, digest, version = said
            raise UpstreamMoved(f"{entry.id} serves {model} {digest}, version {version}, by now.")

    return Question(
        scope,
        scope["path"].removeprefix("/v1"),
        request.body,
        asked.model,
        hops_of(scope),
        ((b"authorization", b"Bearer " + credential.encode("latin-1")),) if credential else (),
        accepts,
        is_counted_there=True,
        is_clients_key=True,
    )


def _identity(entry: FleetMember) -> tuple[str | None, str | None, str]:
    return entry.model, entry.digest, str(entry.version)


def _is_met(asked: Asked, version: str | None) -> bool:
    return asked.demand is None or asked.demand.is_met(int(version or 0))
