"""HTTP as the program that pulls uses it: a hub is somebody else's server, and may lie, redirect and dawdle.

huggingface_hub follows redirects, as its CDNs need. Each hop is checked here: the token goes to the hub's own origin
alone, any other host must be public or named by settings, and nothing compressed is taken.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import httpx2

from stepserve.outbound import AddressRefused, NoAnswer, addresses, is_literal, proxy_of

MAX_BRIEF_BYTES = 64 * 1024 * 1024
LEAST_BYTES_PER_S = 1024
_PATIENCE = 6  # times the timeout of a single read, over which LEAST_BYTES_PER_S must be reached
_BRIEF_PATIENCE = 60  # times the same, for a whole answer that is no model
_OFF_THE_HUB = ("authorization", "cookie")
_SLEEPS = ("retry-after", "ratelimit", "ratelimit-policy", "ratelimit-reset")  # the library would sleep for as long


class AnswerRefused(ValueError):
    """An answer that is not taken; the text goes on from "the answer makes no sense: "."""


@dataclass(slots=True, eq=False)
class _Exchange:
    """One request on its way; `since_s` and `bytes_then` begin the stretch whose speed is measured."""

    begun_s: float
    since_s: float
    bytes_then: int = 0
    bytes_now: int = 0


@dataclass(slots=True)
class Watch:
    """Knows of every request on its way whether it still gets somewhere. Threads may share it.

    `timeout_s`: of a single read. `brief`: answers are listings and configurations, none of them large.
    """

    timeout_s: float
    brief: bool
    clock: Callable[[], float] = time.monotonic
    _under_way: set[_Exchange] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> _Exchange:
        now = self.clock()
        exchange = _Exchange(now, now)
        with self._lock:
            self._under_way.add(exchange)
        return exchange

    def end(self, exchange: _Exchange) -> None:
        with self._lock:
            self._under_way.discard(exchange)

    def complaint(self) -> str | None:
        """Why waiting longer makes no sense, if it does not."""
        now, window_s = self.clock(), _PATIENCE * self.timeout_s
        with self._lock:
            for each in self._under_way:
                if self.brief and now - each.begun_s > _BRIEF_PATIENCE * self.timeout_s:
                    return f"no whole answer within {_BRIEF_PATIENCE * self.timeout_s:g} s"
                if now - each.since_s < window_s:
                    continue
                if each.bytes_now - each.bytes_then < LEAST_BYTES_PER_S * window_s:
                    return f"it sends less than {LEAST_BYTES_PER_S} bytes/s"
                each.since_s, each.bytes_then = now, each.bytes_now
        return None


class HubTransport(httpx2.BaseTransport):
    """`endpoint` is the hub's URL; `hosts` are others that settings name, which may be on the own network."""

    def __init__(self, endpoint: str, hosts: Sequence[str], watch: Watch) -> None:
        self._endpoint = httpx2.URL(endpoint)
        self._named = {self._endpoint.host, *(host.lower() for host in hosts)}
        self._watch = watch
        self._direct = httpx2.HTTPTransport()
        self._proxied: dict[str, httpx2.HTTPTransport] = {}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Raises httpx2.TransportError and AnswerRefused."""
        url = request.url
        headers = httpx2.Headers(request.headers)
        headers["accept-encoding"] = "identity"
        if not self._is_hub(url):
            for name in _OFF_THE_HUB:
                headers.pop(name, None)
        exchange = self._watch.begin()
        try:
            response = self._sent(request, headers)
        except BaseException:
            self._watch.end(exchange)
            raise
        body = _Body(response.stream, exchange, self._watch)
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            response.close()
            body.close()
            raise AnswerRefused("it is compressed, which was not asked for")
        kept = [pair for pair in response.headers.multi_items() if pair[0].lower() not in _SLEEPS]
        return httpx2.Response(response.status_code, headers=kept, stream=body, extensions=response.extensions)

    def close(self) -> None:
        for transport in (self._direct, *self._proxied.values()):
            transport.close()

    def _is_hub(self, url: httpx2.URL) -> bool:
        """The hub's own origin, or the same by TLS."""
        hub = self._endpoint
        return url.host == hub.host and ((url.scheme, url.port) in {(hub.scheme, hub.port), ("https", None)})

    def _sent(self, request: httpx2.Request, headers: httpx2.Headers) -> httpx2.Response:
        url = request.url
        proxy = proxy_of(httpx.URL(str(url)))
        if proxy is not None and not is_literal(url.host):
            if proxy not in self._proxied:
                self._proxied[proxy] = httpx2.HTTPTransport(proxy=proxy)
            return self._proxied[proxy].handle_request(_with(request, url, headers, {}))
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        try:
            found = addresses(url.host, port, named=url.host in self._named)
        except NoAnswer as error:
            raise httpx2.ConnectError(str(error)) from error
        except AddressRefused as error:
            raise AnswerRefused(f"it leads to a host that is not the hub's: {error} (INFERENCE_HUB_HOSTS)") from error
        for address in found[:-1]:
            try:
                return self._direct.handle_request(_pinned(request, address, headers))
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue
        return self._direct.handle_request(_pinned(request, found[-1], headers))


@contextmanager
def watched(watch: Watch, give_up: Callable[[str], None]) -> Iterator[None]:
    """Calls `give_up` in another thread as soon as there is a complaint."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(min(1.0, watch.timeout_s)):
            if (complaint := watch.complaint()) is not None:
                give_up(complaint)
                return

    threading.Thread(target=look, daemon=True).start()
    try:
        yield
    finally:
        over.set()


class _Body(httpx2.SyncByteStream):
    def __init__(self, stream: httpx2.SyncByteStream | httpx2.AsyncByteStream, exchange: _Exchange, watch: Watch):
        assert isinstance(stream, httpx2.SyncByteStream)
        self._stream = stream
        self._exchange = exchange
        self._watch = watch

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._stream:
            self._exchange.bytes_now += len(piece)
            if self._watch.brief and self._exchange.bytes_now > MAX_BRIEF_BYTES:
                raise AnswerRefused(f"it is longer than {MAX_BRIEF_BYTES} bytes")
            yield piece

    def close(self) -> None:
        self._watch.end(self._exchange)
        self._stream.close()


def _pinned(request: httpx2.Request, address: str, headers: httpx2.Headers) -> httpx2.Request:
    """To the address that was checked, whatever the name means a moment later."""
    url = request.url
    sni = {} if address == url.host else {"sni_hostname": url.host}
    return _with(request, url.copy_with(host=address), headers, sni)


def _with(
    request: httpx2.Request, url: httpx2.URL, headers: httpx2.Headers, extensions: dict[str, str]
) -> httpx2.Request:
    return httpx2.Request(
        request.method, url, headers=headers, stream=request.stream, extensions={**request.extensions, **extensions}
    )
