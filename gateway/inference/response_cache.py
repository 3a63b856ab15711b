"""Whole answers that are given again: to the same key, for the same request, from the very same model.

Only what asks for it takes part (setting response_cache, header `x-cache: use`), and only requests whose answer does
not depend on chance: greedy ones, those with a seed, and embeddings. A stream is never kept.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from prometheus_client import Counter

from gateway.http.asgi import Message, Scope
from gateway.http.tracked_send import TrackedSend
from gateway.request.context import RequestContext
from stepserve.contract import ModelRef
from stepserve.request_id import key_id

CACHE = Counter(
    "stepserve_response_cache_total", "Requests that asked for a kept answer, by what came of it.", ["outcome"]
)

Use = Literal["off", "on_request", "on"]

HEADER = b"x-cache"
_WANTED = b"use"
_PATHS = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/embeddings"})
_LONGEST_BODY_BYTES = 256 * 1024  # of a request: it is decoded on the event loop
_LARGEST_SHARE = 16  # no answer takes more than this part of the room
# What a request may say differently without another answer.
_NAMES = ("user", "request_id", "metadata", "safety_identifier", "prompt_cache_key", "service_tier", "priority")
_OF_THE_ANSWER = frozenset({b"content-type", b"content-length"})


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    @property
    def size_bytes(self) -> int:
        return len(self.body) + sum(len(name) + len(value) for name, value in self.headers)


@dataclass(slots=True)
class ResponseCache:
    """The least recently used answers leave when there is no room."""

    use: Use = "off"
    max_bytes: int = 0
    size_bytes: int = field(default=0, init=False)
    _kept: OrderedDict[bytes, KeptAnswer] = field(default_factory=OrderedDict, init=False)

    def wanted(self, scope: Scope, context: RequestContext) -> bool:
        """Whether this request, a client's, is one to look for, for all that its body may say."""
        if self.use == "off" or not self.max_bytes or context.priority is not None or scope["path"] not in _PATHS:
            return False
        return self.use == "on" or any(
            name == HEADER and value.strip().lower() == _WANTED for name, value in scope["headers"]
        )

    def key(self, path: str, body: bytes, model: ModelRef) -> bytes | None:
        """None for a request whose answer depends on chance, or that is streamed. `body` is as the engine gets it."""
        if len(body) > _LONGEST_BODY_BYTES:
            return None
        asked: dict[str, Any] = msgspec.json.decode(body)
        if asked.get("stream") or not (path == "/v1/embeddings" or _is_certain(asked)):
            return None
        for name in (*_NAMES, "model"):
            asked.pop(name, None)
        said = msgspec.json.encode((model.id, model.digest, key_id.get(), path, asked), order="deterministic")
        return hashlib.sha256(said).digest()

    def find(self, key: bytes) -> KeptAnswer | None:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        CACHE.labels("miss" if found is None else "hit").inc()
        return found

    def keep(self, key: bytes, answer: KeptAnswer) -> None:
        if answer.size_bytes > self.max_bytes // _LARGEST_SHARE:
            return
        before = self._kept.pop(key, None)
        self.size_bytes += answer.size_bytes - (before.size_bytes if before is not None else 0)
        self._kept[key] = answer
        while self.size_bytes > self.max_bytes:
            self.size_bytes -= self._kept.popitem(last=False)[1].size_bytes


class Recorder:
    """Hears what a TrackedSend sends, beside whoever else does: `answer` is whole once the last byte went, and None for
    anything but a 200.
    """

    def __init__(self, response: TrackedSend) -> None:
        self._headers: tuple[tuple[bytes, bytes], ...] = ()
        self._pieces: list[bytes] = []
        self._response, self._before = response, response.hears
        response.hears = self._hear

    @property
    def answer(self) -> KeptAnswer | None:
        response = self._response
        if not response.ended or response.status != 200 or response.is_stream or response.given_up is not None:
            return None
        return KeptAnswer(self._headers, b"".join(self._pieces))

    def _hear(self, message: Message) -> None:
        if self._before is not None:
            self._before(message)
        if message["type"] == "http.response.start":
            self._headers = tuple(pair for pair in message.get("headers", ()) if pair[0].lower() in _OF_THE_ANSWER)
        else:
            self._pieces.append(message.get("body", b""))


async def send_kept(answer: KeptAnswer, response: TrackedSend) -> None:
    """`response` has the headers that say which model answers."""
    response.headers[HEADER] = b"hit"
    await response({"type": "http.response.start", "status": 200, "headers": list(answer.headers)})
    await response({"type": "http.response.body", "body": answer.body})


def _is_certain(asked: dict[str, Any]) -> bool:
    temperature, seed = asked.get("temperature"), asked.get("seed")
    return (type(temperature) in (int, float) and temperature == 0) or type(seed) is int
