"""HTTP to other hosts: one pool of connections, no cookies, no redirects, and only headers that are listed here."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit

import httpx

from gateway.http.asgi import Scope
from gateway.upstream.errors import UpstreamFailed, UpstreamTimeout
from gateway.upstream.replica import Replica

HOPS_HEADER = b"x-upstream-hops"
MAX_HOPS = 3
MAX_ANSWER_BYTES = 64 * 1024 * 1024

_TAKEN_THERE = frozenset(
    {b"content-type", b"accept", b"anthropic-version", b"anthropic-beta", b"traceparent", b"x-request-id"}
)
_TAKEN_BACK = frozenset({b"content-type", b"retry-after", b"x-model-id", b"x-model-digest", b"x-model-version"})
_KEEP_IDLE_S = 3.0  # less than any server does, so that no request goes into a connection that is being closed

Headers = list[tuple[bytes, bytes]]


class Wire:
    """Straight on httpx's transport: its client would keep cookies, and one client's must never reach another."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        """`tls`: None: the system's authorities."""
        self._transport = httpx.AsyncHTTPTransport(
            verify=True if tls is None else tls,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=_KEEP_IDLE_S),
        )

    @asynccontextmanager
    async def ask(
        self, replica: Replica, method: str, path: str, headers: Headers, body: bytes | None, timeout_s: float
    ) -> AsyncIterator[httpx.Response]:
        """The answer's head; its body is read by `chunks`. `path` is below the base URL, such as /chat/completions.

        Raises UpstreamFailed, UpstreamTimeout.
        """
        sent = [*headers, (b"accept-encoding", b"identity"), (b"user-agent", b"stepserve")]
        if replica.key is not None:
            sent.append((b"authorization", b"Bearer " + replica.key.encode()))
        connect_s = replica.tier.connect_timeout_s
        request = httpx.Request(
            method,
            replica.base_url + path,
            headers=sent,
            content=body,
            extensions={"timeout": {"connect": connect_s, "pool": connect_s, "read": None, "write": timeout_s}},
        )
        try:
            with translated(replica):
                async with asyncio.timeout(timeout_s):
                    answer = await self._transport.handle_async_request(request)
        except TimeoutError:
            raise UpstreamTimeout(f"{replica.name} gave no answer within {timeout_s:g} s.") from None
        try:
            yield answer
        finally:
            await answer.aclose()

    async def close(self) -> None:
        await self._transport.aclose()


async def chunks(answer: httpx.Response, replica: Replica, idle_timeout_s: float) -> AsyncIterator[bytes]:
    """The body as it comes. Raises UpstreamFailed where it breaks off, UpstreamTimeout where nothing more comes."""
    assert isinstance(answer.stream, httpx.AsyncByteStream)
    pieces = answer.stream.__aiter__()
    while True:
        try:
            with translated(replica):
                async with asyncio.timeout(idle_timeout_s):
                    piece = await anext(pieces, None)
        except TimeoutError:
            raise UpstreamTimeout(f"{replica.name} sent nothing more for {idle_timeout_s:g} s.") from None
        if piece is None:
            return
        yield piece


async def whole(
    answer: httpx.Response, replica: Replica, idle_timeout_s: float, most_bytes: int = MAX_ANSWER_BYTES
) -> bytes:
    """The whole body. Raises UpstreamFailed, also for one of more than `most_bytes`; UpstreamTimeout."""
    body = bytearray()
    async for chunk in chunks(answer, replica, idle_timeout_s):
        body += chunk
        if len(body) > most_bytes:
            raise UpstreamFailed(f"{replica.name} answers with more than {most_bytes} bytes.")
    return bytes(body)


@contextmanager
def translated(replica: Replica) -> Iterator[None]:
    """Whatever httpx raises, in our words."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        raise UpstreamFailed(f"{replica.name} cannot be reached: {_said(error, replica)}.") from error
    except httpx.TimeoutException as error:
        raise UpstreamTimeout(f"{replica.name} does not answer in time: {_said(error, replica)}.") from error
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ssl.SSLError) as error:
        raise UpstreamFailed(f"{replica.name} broke off: {_said(error, replica)}.") from error


def hops_of(scope: Scope) -> int:
    """How many hosts have passed the request on already. Raises UpstreamFailed where they are too many."""
    said = next((value for name, value in scope["headers"] if name == HOPS_HEADER), b"0")
    hops = int(said) if said.isdigit() and len(said) < 4 else 0
    if hops >= MAX_HOPS:
        raise UpstreamFailed("The request goes from host to host in a circle: look at their hosts.json.")
    return hops


def headers_there(scope: Scope, hops: int) -> Headers:
    """What of a request's head goes on: nothing that tells who asks."""
    kept = [pair for pair in scope["headers"] if pair[0] in _TAKEN_THERE]
    return [*kept, (HOPS_HEADER, str(hops).encode())]


def headers_back(headers: Mapping[str, str], model: str | None, mark: tuple[bytes, bytes]) -> Headers:
    """What of an answer's head comes back; it names the model, and by `mark` who answered."""
    kept = [
        (name, value.encode("latin-1", "replace"))
        for name in sorted(_TAKEN_BACK)
        if (value := headers.get(name.decode())) is not None
    ]
    if model is not None and all(name != b"x-model-id" for name, _ in kept):
        kept.append((b"x-model-id", model.encode("latin-1", "replace")))
    return [*kept, mark]


def _said(error: Exception, replica: Replica) -> str:
    """A client reads it, so the server's name stands in the place of its host."""
    said = (str(error) or type(error).__name__).rstrip(".")
    host = urlsplit(replica.base_url).hostname or ""
    return re.sub(rf"(?<![\w.-]){re.escape(host)}(?![\w.-])", lambda _: replica.name, said) if host else said
