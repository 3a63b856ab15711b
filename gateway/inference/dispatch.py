"""The request path: which of vLLM's routes are public, and which slot answers."""

from dataclasses import dataclass, field

from gateway.access.meter import METER
from gateway.dialects.call import PRIORITY_KEY, TRANSLATED_KEY
from gateway.errors import GatewayError, InvalidField, ModelNotFound
from gateway.http.asgi import (
    ClientDisconnected,
    Receive,
    Scope,
    Send,
    read_body,
    replay,
    send_openai_error,
    until_disconnected,
)
from gateway.http.envelopes import in_envelope
from gateway.request.ask import ASK_KEY
from gateway.request.bounds import HARMLESS_BYTES, RequestBounds
from gateway.request.client_fields import check
from gateway.request.texts import NO_TEXTS, texts_of
from gateway.serving.admission import Admission
from gateway.serving.naming import Naming, model_named
from gateway.serving.router import Router
from gateway.serving.served import Served
from gateway.upstream.app import UpstreamApp
from stepserve.contract import ACTIVE_ALIAS
from stepserve.structured_bounds import StructuredLimits, TooMuch, check_body

# Everything else that vLLM's app has (/health, /metrics, /scale_elastic_ep, /invocations …) is out of reach.
POST_PATHS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/embeddings",
        "/tokenize",
        "/detokenize",
    }
)
RESPONSES_PREFIX = "/v1/responses/"


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Hands requests on vLLM's public routes to the slot that serves the model they name."""

    router: Router
    max_request_bytes: int
    admission: Admission = field(default_factory=Admission.unbounded)
    upstream: UpstreamApp | None = None
    naming: Naming = field(default_factory=Naming)
    bounds: RequestBounds = field(default_factory=RequestBounds.unbounded)
    structured: StructuredLimits = field(default_factory=StructuredLimits)

    @staticmethod
    def takes(scope: Scope) -> bool:
        path: str = scope["path"]
        return path in POST_PATHS or path.startswith(RESPONSES_PREFIX)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        send = in_envelope(scope["path"], send)
        try:
            body = await read_body(receive, self.max_request_bytes)
            ask = scope.get(ASK_KEY) or await self.bounds.ask(body, scope["path"])
            if scope["path"] in POST_PATHS and PRIORITY_KEY not in scope and TRANSLATED_KEY not in scope:
                check(ask, scope["path"])
            name = model_named(body)
            target = self.naming.target(name)
            if target and self.upstream is not None and self.upstream.has(target) and not self.router.is_here(target):
                body = self.naming.rewritten(body, scope["path"], name, target, target)
                await self.upstream.relay(target, body, scope, receive, send)
                return
            texts = NO_TEXTS if len(body) <= HARMLESS_BYTES else await texts_of(body, scope["path"])
            self._bound(body)
            slot, body = await self._enter(scope["path"], name, body, receive)
            engine = slot.host.engine
            texts.check(self.bounds.max_text_chars, engine.max_model_len_tokens, engine.max_chars_per_token)
            if PRIORITY_KEY in scope:  # batch work is bounded by its own window
                await slot.serve(scope, replay(body, receive), send)
                return
            self.admission.enter(slot.host, ask)
        except GatewayError as error:
            await send_openai_error(send, error)
        except ClientDisconnected:
            return
        else:
            if (meter := METER.get()) is not None:
                meter.model = slot.model.id
            try:
                await slot.serve(scope, replay(body, receive), send)
            finally:
                self.admission.leave(slot.host, ask)

    def _bound(self, body: bytes) -> None:
        """Raises InvalidField."""
        try:
            check_body(body, self.structured)
        except TooMuch as error:
            raise InvalidField(error.field, str(error)) from error

    async def _enter(self, path: str, name: str | None, body: bytes, receive: Receive) -> tuple[Served, bytes]:
        """Raises what `Router.enter` raises; a model that is nowhere is refused with all names that are somewhere."""

        for candidate in self.naming.candidates(name):
            try:
                slot = await self.router.enter(candidate, lambda: until_disconnected(receive))
            except ModelNotFound:
                continue
            return slot, self.naming.rewritten(body, path, name, candidate, slot.model.id)
        raise ModelNotFound(name or ACTIVE_ALIAS, await self._names())

    async def _names(self) -> list[str]:
        names = await self.router.names()
        if self.upstream is not None:
            names += [*self.upstream.directory.models(), *self.upstream.directory.tiers]
        return [*names, *self.naming.aliases_of(names)]
