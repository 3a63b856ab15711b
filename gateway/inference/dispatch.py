"""The request path of vLLM's routes: which slot, or which other host, answers."""

from dataclasses import dataclass, field, replace
from functools import partial

from gateway.access.meter import METER
from gateway.balancing.asked import asked_of
from gateway.balancing.member import GATEWAY_HEADER
from gateway.balancing.spread import Spread
from gateway.dialects import anthropic, openai
from gateway.errors import DigestMismatch, GatewayError, InvalidField, ModelNotFound, Overloaded
from gateway.http.asgi import ClientDisconnected, Receive, Scope, Send, replay, until_disconnected
from gateway.http.bounded_body import read_within
from gateway.http.tracked_send import TrackedSend, tracked
from gateway.inference.response_cache import HEADER as CACHE_HEADER
from gateway.inference.response_cache import Recorder, ResponseCache, send_kept
from gateway.request.body import RequestBody
from gateway.request.bounds import HARMLESS_BYTES, RequestBounds
from gateway.request.client_fields import check
from gateway.request.context import RequestContext
from gateway.request.estimate import RequestEstimate
from gateway.request.texts import NO_TEXTS, Texts, texts_of
from gateway.serving.admission import Admission
from gateway.serving.canary.canary import Canary, Trial, watched
from gateway.serving.naming import Naming
from gateway.serving.router import Router
from gateway.serving.served import Served
from gateway.serving.weights.versions import Demand, demand_of
from gateway.upstream.app import UpstreamApp
from stepserve.contract import ACTIVE_ALIAS, ModelRef
from stepserve.request_id import key_id
from stepserve.structured_bounds import StructuredLimits, TooMuch, check_members

_CHAT = "/v1/chat/completions"
_RESPONSES = "/v1/responses"
_KEPT_HERE = frozenset({"admin", "fleet"})
"""Keys that are handed to no member: whoever may put a URL into the fleet would get the keys that rule it."""


# Not frozen, which would cost each request a microsecond.
@dataclass(slots=True)
class _Admit:
    """What a slot has to know of a request that wants in; `body` is as vLLM can read it.

    `tried`: the candidate of a canary that is to answer, with its body. In a fleet the active model's part of a canary
    are the answers of this gateway.
    """

    context: RequestContext
    name: str | None
    body: bytes
    texts: Texts
    estimate: RequestEstimate
    demand: Demand | None
    trial: Trial | None
    tried: tuple[Served, bytes] | None


@dataclass(slots=True)
class _Admitted:
    """A request that its slot has room for. `model`: what the slot was then; `cached`: where its answer is kept."""

    slot: Served
    model: ModelRef
    body: bytes
    cached: bytes | None
    trial: Trial | None


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Hands requests on vLLM's public routes to the slot that serves the model they name.

    `fleet`: the members that share the work, on a gateway with a control plane. `member_id`: this gateway's own name,
    on one that is a member of another's.
    """

    router: Router
    max_request_bytes: int
    admission: Admission = field(default_factory=Admission.unbounded)
    upstream: UpstreamApp | None = None
    naming: Naming = field(default_factory=Naming)
    bounds: RequestBounds = field(default_factory=RequestBounds.unbounded)
    structured: StructuredLimits = field(default_factory=StructuredLimits)
    cache: ResponseCache = field(default_factory=ResponseCache)
    fleet: Spread | None = None
    member_id: bytes | None = None
    canary: Canary = field(default_factory=Canary)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = RequestContext.of(scope)
        response = tracked(send, scope)
        path: str = scope["path"]
        response.rewords = path
        try:
            asked = await read_within(self.bounds, context, receive, self.max_request_bytes, path)
            estimate = context.estimate
            assert estimate is not None, "made with the body"
            if context.priority is None and not context.is_translated:
                check(estimate, path)
            name = asked.model
            body = _readable_by_vllm(asked, context)
            target = self.naming.target(name)
            if target and self.upstream is not None and self.goes_elsewhere(name):
                body = self.naming.rewritten(body, path, name, target, target)
                await self.upstream.relay(target, body, scope, receive, response)
                return
            texts = NO_TEXTS if len(body) <= HARMLESS_BYTES else await texts_of(asked, path)
            self._bound(asked)
            trial = self._trial(scope, context, target)
            tried = self._tried(path, name, body, trial)
            admit = _Admit(context, name, body, texts, estimate, demand_of(scope["headers"]), trial, tried)
            if tried is None and self.fleet is not None and self.fleet.members.balances and context.priority is None:
                served = self.fleet.members.committed_model(target)
                if served is not None:
                    await self._spread(self.fleet, served, asked, admit, scope, receive, response)
                    return
            admitted = await self._admitted(admit, scope, receive, response)
        except GatewayError as error:
            await response.fail(error)
        except ClientDisconnected:
            return
        else:
            if admitted is not None:
                await self._serve(admitted, estimate, scope, receive, response)

    async def _spread(
        self,
        fleet: Spread,
        served: str,
        asked: RequestBody,
        admit: "_Admit",
        scope: Scope,
        receive: Receive,
        response: TrackedSend,
    ) -> None:
        """Has whichever member of the fleet answer that should. Raises what Spread does."""

        async def here(answer: TrackedSend, digest: str | None) -> None:
            admitted = await self._admitted(admit, scope, receive, answer, digest)
            if admitted is not None:
                await self._serve(admitted, admit.estimate, scope, receive, answer)

        target = self.naming.target(admit.name)
        body_for = partial(self.naming.rewritten, admit.body, scope["path"], admit.name, target)
        wanted = asked_of(scope, asked, admit.estimate, served, admit.demand)
        if admit.context.credential is not None and admit.context.key_class in _KEPT_HERE:
            wanted = replace(wanted, only_here=True)
        await fleet(wanted, target, body_for, here, scope, receive, response)

    async def _admitted(
        self, admit: "_Admit", scope: Scope, receive: Receive, response: TrackedSend, digest: str | None = None
    ) -> "_Admitted | None":
        """The slot that is to answer; None where the request is answered by now. `digest`: that of the weights it must
        have.

        Raises what `_enter` raises, DigestMismatch, InvalidField, Overloaded.
        """
        context, path = admit.context, scope["path"]
        slot, body = admit.tried or await self._enter(path, admit.name, admit.body, receive, admit.demand)
        if digest is not None and slot.model.digest != digest:
            raise DigestMismatch(slot.model.id, digest, slot.model.digest, slot.version.number)
        engine = slot.host.engine
        admit.texts.check(self.bounds.max_text_chars, engine.max_model_len_tokens, engine.max_chars_per_token)
        if context.priority is not None:  # batch work is bounded by its own window
            await slot.serve(scope, replay(body, receive), response)
            return None
        cached = self._cache_key(scope, context, path, body, slot.model)
        if cached is not None and (kept := self.cache.find(cached)) is not None:
            response.headers.update(slot.identity_headers)
            await send_kept(kept, response)
            return None
        try:
            self.admission.enter(slot.host, admit.estimate)
        except Overloaded:
            if admit.tried is None:
                raise
            admit.tried = None  # the candidate has no place for its share now: no client pays for that
            return await self._admitted(admit, scope, receive, response, digest)
        return _Admitted(slot, slot.model, body, cached, admit.trial)

    async def _serve(
        self, admitted: "_Admitted", estimate: RequestEstimate, scope: Scope, receive: Receive, response: TrackedSend
    ) -> None:
        slot, cached = admitted.slot, admitted.cached
        if self.member_id is not None:
            response.headers[GATEWAY_HEADER] = self.member_id
        if (meter := METER.get()) is not None:
            meter.model = slot.model.id
        recorder = None
        if cached is not None:
            response.headers[CACHE_HEADER] = b"miss"
            recorder = Recorder(response)
        with watched(admitted.trial, admitted.model, scope["path"], admitted.body, response, meter):
            try:
                await slot.serve(scope, replay(admitted.body, receive), response)
            finally:
                self.admission.leave(slot.host, estimate)
        if admitted.trial is not None and slot.dead:
            admitted.trial.died(admitted.model.digest)
        # Weights that were switched under the request have made an answer of two models.
        if cached is not None and recorder is not None and recorder.answer is not None and slot.model is admitted.model:
            self.cache.keep(cached, recorder.answer)

    def goes_elsewhere(self, name: str | None) -> bool:
        """Whether another host answers to that name."""
        target = self.naming.target(name)
        if not target or self.upstream is None:
            return False
        return self.upstream.has(target) and not self.router.is_here(target)

    def _cache_key(
        self, scope: Scope, context: RequestContext, path: str, body: bytes, model: ModelRef
    ) -> bytes | None:
        """None: no kept answer is looked for, nor is this one kept."""
        return self.cache.key(path, body, model) if self.cache.wanted(scope, context) else None

    def _trial(self, scope: Scope, context: RequestContext, target: str | None) -> Trial | None:
        """Of an interactive request for the active model that demands no version. Responses are left out: whoever gave
        one has to give what follows it.
        """
        if context.priority is not None or context.match.label == _RESPONSES or (target and target != ACTIVE_ALIAS):
            return None
        if demand_of(scope["headers"]) is not None:
            return None
        return self.canary.trial(self.router.active, scope["headers"], key_id.get(), context.request_id)

    def _tried(self, path: str, name: str | None, body: bytes, trial: Trial | None) -> tuple[Served, bytes] | None:
        """The candidate of a canary, where that is to answer and is loaded."""
        if trial is None or (asked_of := trial.asked_of) is None:
            return None
        slot = self.router.beside(asked_of)
        if slot is None:
            trial.missed()
        return None if slot is None or trial.shadowed else (slot, self.naming.sent_to(body, path, name, slot.model.id))

    def _bound(self, body: RequestBody) -> None:
        """Raises InvalidField."""
        try:
            check_members(body.members, self.structured)
        except TooMuch as error:
            raise InvalidField(error.field, str(error)) from error

    async def _enter(
        self, path: str, name: str | None, body: bytes, receive: Receive, demand: Demand | None
    ) -> tuple[Served, bytes]:
        """Raises what `Router.enter` and `enter_version` raise; a model that is nowhere is refused with all names that
        are somewhere.
        """

        for candidate in self.naming.candidates(name):
            try:
                slot = await self.router.enter(candidate, lambda: until_disconnected(receive))
                if demand is not None and not demand.is_met(slot.version.number):
                    slot = await self.router.enter_version(candidate, demand, lambda: until_disconnected(receive))
            except ModelNotFound:
                continue
            return slot, self.naming.rewritten(body, path, name, candidate, slot.model.id)
        raise ModelNotFound(name or ACTIVE_ALIAS, await self._names())

    async def _names(self) -> list[str]:
        names = await self.router.names()
        if self.upstream is not None:
            names += [*self.upstream.directory.models(), *self.upstream.directory.tiers]
        return [*names, *self.naming.aliases_of(names)]


def _readable_by_vllm(body: RequestBody, context: RequestContext) -> bytes:
    """Raises InvalidField."""
    if context.match.envelope == "anthropic":
        return anthropic.readable_by_vllm(body)
    return openai.without_null_fields(body) if context.match.label == _CHAT else body.raw
