"""Served: what a name leads to, a slot or an adapter on one, as those see it that pass requests on."""

from collections.abc import Sequence
from typing import Any, Protocol

from gateway.http.asgi import Receive, Scope, Send
from gateway.http.error_rendering import Headers
from stepserve.contract import BatchItem, BatchOutput, BatchSampling, ModelRef, WeightsVersion


class ServingEngine(Protocol):
    """What those who pass requests on ask of an engine."""

    @property
    def max_model_len_tokens(self) -> int: ...

    @property
    def max_chars_per_token(self) -> int:
        """The length of the longest token: a text of more characters than as many as fit cannot fit."""
        ...

    def openapi(self) -> dict[str, Any]:
        """Describes the engine's routes. Blocks the first time."""
        ...


class Host(Protocol):
    """The slot that an answer comes from; requests are admitted by slot."""

    @property
    def engine(self) -> ServingEngine: ...


class Served(Protocol):
    """`gateway.serving.slot.Slot` and `gateway.serving.adapter.Adapter` are the real ones."""

    @property
    def model(self) -> ModelRef: ...

    @property
    def version(self) -> WeightsVersion: ...

    @property
    def identity_headers(self) -> Headers:
        """Which model answers, for its answers."""
        ...

    @property
    def host(self) -> Host: ...

    @property
    def dead(self) -> bool: ...

    @property
    def names(self) -> list[str]:
        """The ids that `answering` knows."""
        ...

    def answering(self, name: str) -> "Served | None":
        """The slot or adapter on the same engine that answers to that id."""
        ...

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request of vLLM's routes."""
        ...

    async def batch(self, items: Sequence[BatchItem], sampling: BatchSampling) -> list[BatchOutput]:
        """Answers a batch at low priority. Raises Unserved when the engine dies meanwhile."""
        ...
