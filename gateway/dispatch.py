"""The request path: which of vLLM's routes are public, and which slot answers."""

from dataclasses import dataclass, field

import msgspec

from gateway.access.ask import ASK_KEY, ask_of
from gateway.admission import Admission
from gateway.asgi import (
    ClientDisconnected,
    Receive,
    Scope,
    Send,
    read_body,
    replay,
    send_openai_error,
    until_disconnected,
)
from gateway.errors import GatewayError, ModelNotFound
from gateway.router import Router
from gateway.slot import Slot
from gateway.upstream.app import UpstreamApp

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


class _Named(msgspec.Struct):
    model: str | None = None


_named = msgspec.json.Decoder(_Named)


def model_named(body: bytes) -> str | None:
    """The `model` of a JSON body; None where there is none or the body is not as it should be (vLLM will say so)."""
    try:
        return _named.decode(body).model
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Hands requests on vLLM's public routes to the slot that serves the model they name."""

    router: Router
    max_request_bytes: int
    admission: Admission = field(default_factory=Admission.unbounded)
    upstream: UpstreamApp | None = None

    @staticmethod
    def takes(scope: Scope) -> bool:
        path: str = scope["path"]
        return path in POST_PATHS or path.startswith(RESPONSES_PREFIX)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await read_body(receive, self.max_request_bytes)
            name = model_named(body)
            if name and self.upstream is not None and self.upstream.has(name) and not self.router.is_here(name):
                await self.upstream.relay(name, body, scope, receive, send)
                return
            slot = await self._slot(name, receive)
            ask = scope.get(ASK_KEY) or ask_of(body)
            self.admission.enter(slot, ask)
        except GatewayError as error:
            await send_openai_error(send, error)
        except ClientDisconnected:
            return
        else:
            try:
                await slot.serve(scope, replay(body, receive), send)
            finally:
                self.admission.leave(slot, ask)

    async def _slot(self, name: str | None, receive: Receive) -> Slot:
        """Raises what `Router.enter` raises; a model that is nowhere is refused with the names that are somewhere."""
        try:
            return await self.router.enter(name, lambda: until_disconnected(receive))
        except ModelNotFound as error:
            if self.upstream is None or not self.upstream.directory.tiers:
                raise
            elsewhere = [*self.upstream.directory.models(), *self.upstream.directory.tiers]
            raise ModelNotFound(error.name, [*error.served, *elsewhere]) from None
