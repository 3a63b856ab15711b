"""Asks another host on behalf of a client: the least busy one, another if it fails, and its answer streamed back."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
from prometheus_client import Counter

from gateway.access.meter import METER, Meter
from gateway.http.asgi import Scope
from gateway.http.tracked_send import TrackedSend
from gateway.upstream.errors import (
    UpstreamBusy,
    UpstreamError,
    UpstreamFailed,
    UpstreamKeyUnknown,
    UpstreamMoved,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.upstream.events import EventScan, Garbage, note_usage
from gateway.upstream.replica import Replica, choose
from gateway.upstream.wire import Headers, Wire, chunks, headers_back, headers_there, whole

log = logging.getLogger(__name__)

ATTEMPTS = Counter(
    "stepserve_upstream_attempts_total",
    "Requests sent to other hosts, by how they ended.",
    ["tier", "upstream", "outcome"],
)
_BUSY = frozenset({429, 503})
_OUR_KEY_IS_REFUSED = frozenset({401, 403})
_MOVED = frozenset({404, 409})
_MOVED_CODES = frozenset({"model_not_found", "model_not_loaded", "not_found_error"})  # the last is Anthropic's
_JSON = b"application/json"
_EVENTS = b"text/event-stream"


@dataclass(frozen=True, slots=True)
class Question:
    """One request for other hosts.

    `path` is below /v1, such as /chat/completions. `model` is what to ask for; None: each replica's default. `hops` is
    how many hosts have passed it on already. `headers`: further ones that go there. `accepts`: of an answer that is not
    a refusal, raises UpstreamMoved for the identity of a model that is not to answer. `is_counted_there`: usage of keys
    is counted by who answers, not here. `is_clients_key`: a refusal of the key says nothing of the server.
    """

    scope: Scope
    path: str
    body: bytes
    model: str | None
    hops: int
    headers: tuple[tuple[bytes, bytes], ...] = ()
    accepts: Callable[[Mapping[str, str]], None] | None = None
    is_counted_there: bool = False
    is_clients_key: bool = False


@dataclass(slots=True)
class Relay:
    wire: Wire
    clock: Callable[[], float] = field(default=time.monotonic)

    async def __call__(self, question: Question, replicas: Sequence[Replica], answer: TrackedSend) -> None:
        """Answers the client. Raises UpstreamError while nothing was sent; after that a failure cuts the answer off."""
        tried: list[Replica] = []
        failure: UpstreamError | None = None
        while (replica := choose(replicas, tried, self.clock())) is not None:
            tried.append(replica)
            try:
                with replica.busy(), _counted(replica):
                    return await self.attempt(question, replica, answer)
            except UpstreamError as error:
                log.warning("upstream %s, tier %s: %s", replica.base_url, replica.tier_name, error)
                if answer.started:
                    await answer.fail(error)
                    return None
                # Of several reasons a server that is only busy is the one that the client can do something about.
                if failure is None or not isinstance(failure, UpstreamBusy):
                    failure = error
        raise failure or self._nobody(replicas)

    async def attempt(self, question: Question, replica: Replica, answer: TrackedSend) -> None:
        """Asks one server, and notes with its breaker how that ends. Raises UpstreamError."""
        try:
            async with asyncio.timeout(replica.tier.total_timeout_s):
                await self._exchange(question, replica, answer)
        except (UpstreamBusy, UpstreamMoved, UpstreamKeyUnknown):
            replica.breaker.succeed()
            raise
        except UpstreamError:
            replica.breaker.fail(self.clock())
            raise
        except TimeoutError:
            replica.breaker.fail(self.clock())
            limit_s = replica.tier.total_timeout_s
            raise UpstreamTimeout(f"{replica.name} took longer than {limit_s:g} s for its answer.") from None
        replica.breaker.succeed()

    async def _exchange(self, question: Question, replica: Replica, answer: TrackedSend) -> None:
        tier = replica.tier
        model = question.model or replica.default_model()
        body = question.body if question.model is not None or model is None else _asking_for(model, question.body)
        headers = [*headers_there(question.scope, question.hops + 1), *question.headers]
        query = question.scope.get("query_string", b"").decode("latin-1")
        path = f"{question.path}?{query}" if query else question.path
        method: str = question.scope["method"]
        async with self.wire.ask(replica, method, path, headers, body, tier.first_byte_timeout_s) as head:
            meter = METER.get() or Meter()
            meter.begun = True
            kind = head.headers.get("content-type", "").split(";")[0].strip().lower().encode()
            if head.status_code < 300 and question.accepts is not None:
                question.accepts(head.headers)
            answered_by = None if question.is_counted_there else head.headers.get("x-model-id") or model
            if 200 <= head.status_code < 300 and kind == _EVENTS:
                meter.model = answered_by
                await _stream(head, replica, answer, meter, headers_back(head.headers, model, replica.mark))
                return
            content = await whole(head, replica, tier.idle_timeout_s)
            if question.is_clients_key and head.status_code in _OUR_KEY_IS_REFUSED:
                raise UpstreamKeyUnknown(f"{replica.name} does not take the client's key: {_message(content)}")
            _check(head, kind, content, replica)
            if question.accepts is not None and head.status_code in _MOVED and _code(content) in _MOVED_CODES:
                raise UpstreamMoved(f"{replica.name} does not serve it any more: {_message(content)}")
            meter.model = answered_by
            if head.status_code < 300:
                note_usage(meter, msgspec.json.decode(content).get("usage"))
            headers_of = headers_back(head.headers, model if head.status_code < 300 else None, replica.mark)
            length = (b"content-length", str(len(content)).encode())
            await _start(answer, head.status_code, [*headers_of, length])
            await answer({"type": "http.response.body", "body": content})

    def _nobody(self, replicas: Sequence[Replica]) -> UpstreamUnavailable:
        """All are left alone after failures."""
        now = self.clock()
        wait_s = min((each.breaker.retry_in_s(now) for each in replicas), default=1.0)
        names = ", ".join(sorted({each.tier_name for each in replicas}))
        return UpstreamUnavailable(f"No server of {names} answers at present.", max(1.0, wait_s))


@contextmanager
def _counted(replica: Replica) -> Iterator[None]:
    outcome = "abandoned"
    try:
        yield
        outcome = "answered"
    except UpstreamBusy:
        outcome = "busy"
        raise
    except UpstreamError:
        outcome = "failed"
        raise
    finally:
        ATTEMPTS.labels(replica.tier_name, replica.base_url, outcome).inc()


async def _stream(head: httpx.Response, replica: Replica, answer: TrackedSend, meter: Meter, headers: Headers) -> None:
    """Passes whole events on as they come. Raises UpstreamFailed when the stream is no stream, or ends too early."""
    scan = EventScan(meter)
    try:
        async for chunk in chunks(head, replica, replica.tier.idle_timeout_s):
            passed = scan.feed(chunk)
            if passed and not answer.started:
                await _start(answer, head.status_code, headers)
            if passed:
                await answer({"type": "http.response.body", "body": passed, "more_body": True})
            if scan.complete:
                break
    except Garbage as error:
        raise UpstreamFailed(f"{replica.name} sends {error}.") from error
    if not scan.complete:
        raise UpstreamFailed(f"{replica.name} ended its stream before the answer was whole.")
    await answer({"type": "http.response.body", "body": b""})


async def _start(answer: TrackedSend, status: int, headers: Headers) -> None:
    await answer({"type": "http.response.start", "status": status, "headers": headers})


def _check(head: httpx.Response, kind: bytes, content: bytes, replica: Replica) -> None:
    """Raises UpstreamBusy and UpstreamFailed for what is no answer to be passed on."""
    status = head.status_code
    if status in _BUSY:
        raise UpstreamBusy(f"{replica.name} is busy: {_message(content)}", _retry_after_s(head))
    if status in _OUR_KEY_IS_REFUSED:  # passed on it would tell the client that its own key is wrong
        raise UpstreamFailed(f"{replica.name} refuses the key that it was shown ({status}).")
    if status == 504:
        raise UpstreamTimeout(f"{replica.name} timed out: {_message(content)}")
    if status >= 500:
        raise UpstreamFailed(f"{replica.name} failed with {status}: {_message(content)}")
    if status < 200 or 300 <= status < 400:
        raise UpstreamFailed(f"Unexpected status {status} from {replica.name}.")
    if kind != _JSON or not isinstance(_decoded(content), dict):
        raise UpstreamFailed(f"{replica.name} answered with something other than a JSON object: {content[:60]!r}.")


def _decoded(content: bytes) -> Any:
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _code(content: bytes) -> object:
    """The machine-readable name of an error answer, in OpenAI's envelope or Anthropic's."""
    found = _decoded(content)
    error = found.get("error") if isinstance(found, dict) else None
    return error.get("code") or error.get("type") if isinstance(error, dict) else None


def _message(content: bytes) -> str:
    """The words of an error answer, in whichever envelope, shortened."""
    found = _decoded(content)
    if isinstance(found, dict):
        error = found.get("error", found)
        found = error.get("message") or error.get("detail") if isinstance(error, dict) else error
    return found[:300] if isinstance(found, str) else "it gives no details"


def _retry_after_s(head: httpx.Response) -> float:
    said = head.headers.get("retry-after", "")
    return min(3600.0, float(said)) if said.isdigit() else 1.0


def _asking_for(model: str, body: bytes) -> bytes:
    """The body with this model in it; one that is no JSON object is left for the other host to refuse."""
    asked = _decoded(body)
    if not isinstance(asked, dict):
        return body
    return msgspec.json.encode({**asked, "model": model})
