"""HTTP to a server that others run: which addresses may be connected to, how long it may take, how much is read.

A host that settings name may be on the own network. Any other host, such as a redirect's, must be public: its name may
mean this machine or a cloud's metadata service. A name is resolved once and the checked address is connected to.

OutboundError      its text is ours: nothing that the server said is in it
├── AddressRefused
├── NoAnswer       asked again it may answer
└── AnswerRefused  too long or compressed
"""

import asyncio
import ipaddress
import json
import socket
import ssl
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote
from urllib.request import getproxies, proxy_bypass

import httpx

from stepserve.address import is_loopback

CONNECT_TIMEOUT_S = 10.0
_OF_PATHS = "/?%:@!$&'()*+,;=[]~"  # characters of a path and its query that are sent as they are
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_OWN_SUFFIXES = (".localhost", ".localdomain", ".local")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class OutboundError(Exception):
    pass


class AddressRefused(OutboundError):
    pass


class NoAnswer(OutboundError):
    pass


class AnswerRefused(OutboundError):
    pass


def may_connect(host: str, address: str, *, named: bool) -> bool:
    """Whether `host`, which resolved to `address`, may be connected to; `named`: settings name the host.

    A named host is trusted with private addresses, but only names that mean this machine with loopback, and link-local
    addresses (where clouds keep credentials) must be named as such.
    """
    ip = _meant(ipaddress.ip_address(address.partition("%")[0]))
    if not named:
        return ip.is_global and not ip.is_multicast
    if is_literal(host):
        return True
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        return False
    if ip.is_loopback:
        name = host.rstrip(".").lower()
        return "." not in name or name.endswith(_OWN_SUFFIXES) or name == socket.gethostname().lower()
    return True


def addresses(host: str, port: int, *, named: bool) -> list[str]:
    """What `host` resolves to and may be connected to, best first. Blocks. Raises AddressRefused, NoAnswer."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise NoAnswer(f"the name {host} cannot be resolved") from error
    unique = dict.fromkeys(str(entry[4][0]) for entry in found)
    allowed = [address for address in unique if may_connect(host, address, named=named)]
    if not allowed:
        kind = "loopback or link-local" if named else "not public"
        raise AddressRefused(f"{host} resolves to an address that is {kind}, which no setting names")
    return allowed


def proxy_of(url: httpx.URL) -> str | None:
    """The proxy that the environment names for this URL: it resolves names, and is the operator's."""
    if is_loopback(url.host) or proxy_bypass(url.host):
        return None
    return getproxies().get(url.scheme)


@dataclass(frozen=True, slots=True)
class Answer:
    """`content` is empty unless the status is 200."""

    status: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Body:
    """`reads`: the answer's body is wanted too."""

    content: bytes
    headers: Mapping[str, str]
    reads: bool = True


class Outbound:
    """POST requests below one base URL; a context. Redirects are not followed. `named`: settings name its host."""

    def __init__(
        self,
        base_url: str,
        *,
        headers: Mapping[str, str],
        total_timeout_s: float,
        max_bytes: int,
        named: bool = True,
    ) -> None:
        self._base = httpx.URL(base_url)
        self._total_timeout_s = total_timeout_s
        self._max_bytes = max_bytes
        self._named = named
        self._proxy = proxy_of(self._base)
        # Compressed, a megabyte may be a gigabyte.
        self._headers = {**headers, "accept-encoding": "identity", "user-agent": "stepserve"}
        self._client: httpx.AsyncClient | None = None
        # Of its own: a name server that hangs must not take the threads that everything else waits for.
        self._resolver = ThreadPoolExecutor(1, thread_name_prefix="resolves")

    async def __aenter__(self) -> Self:
        verify = httpx.create_ssl_context() if self._base.scheme == "https" else False
        self._client = httpx.AsyncClient(
            trust_env=False,
            follow_redirects=False,
            proxy=self._proxy,
            verify=verify,
            timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT_S),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._client is not None
        self._resolver.shutdown(wait=False, cancel_futures=True)
        await self._client.aclose()

    async def post(self, path: str, body: Any) -> Answer:
        """The whole answer to a JSON body. Raises OutboundError, also for one too long, too slow or compressed."""
        url = self._base.copy_with(path=self._base.path.rstrip("/") + path)
        return await self._within_time(url, Body(json.dumps(body).encode(), {"content-type": "application/json"}))

    async def send(self, path: str, content: bytes, headers: Mapping[str, str]) -> int:
        """The status of the answer to these very bytes; its body is not read. `path` with its query."""
        # Joined to the base, a path of two slashes would name another host.
        url = self._base.copy_with(raw_path=quote(path, safe=_OF_PATHS).encode())
        return (await self._within_time(url, Body(content, headers, reads=False))).status

    async def _within_time(self, url: httpx.URL, body: "Body") -> Answer:
        """Raises OutboundError."""
        try:
            async with asyncio.timeout(self._total_timeout_s):
                return await self._post(url, body)
        except TimeoutError:
            raise NoAnswer(f"no whole answer within {self._total_timeout_s:g} s") from None
        except httpx.TimeoutException as error:
            raise NoAnswer(f"no connection within {CONNECT_TIMEOUT_S:g} s") from error
        except httpx.ConnectError as error:
            raise NoAnswer("cannot be connected to") from error
        except (httpx.HTTPError, httpx.StreamError, ssl.SSLError) as error:
            raise NoAnswer(f"the connection broke off or what came is not HTTP ({type(error).__name__})") from error

    async def _post(self, url: httpx.URL, body: "Body") -> Answer:
        if self._proxy is not None:
            return await self._exchange(url, body, {}, {})
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        resolve = partial(addresses, url.host, port, named=self._named)
        found = await asyncio.get_running_loop().run_in_executor(self._resolver, resolve)
        sni = {} if is_literal(url.host) else {"sni_hostname": url.host}
        for address in found[:-1]:
            try:
                return await self._exchange(url.copy_with(host=address), body, _host(url), sni)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        return await self._exchange(url.copy_with(host=found[-1]), body, _host(url), sni)

    async def _exchange(self, url: httpx.URL, body: "Body", host: Mapping[str, str], sni: Mapping[str, str]) -> Answer:
        assert self._client is not None
        headers = {**self._headers, **body.headers, **host}
        content = body.content
        async with self._client.stream("POST", url, content=content, headers=headers, extensions=dict(sni)) as answer:
            if answer.status_code != 200 or not body.reads:
                return Answer(answer.status_code, b"")
            if answer.headers.get("content-encoding", "identity").lower() != "identity":
                raise AnswerRefused("its answer is compressed, which was not asked for")
            received = bytearray()
            async for piece in answer.aiter_raw():
                received += piece
                if len(received) > self._max_bytes:
                    raise AnswerRefused(f"its answer is longer than {self._max_bytes} bytes")
            return Answer(200, bytes(received))


def _host(url: httpx.URL) -> dict[str, str]:
    return {"host": url.netloc.decode("ascii")}


def is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _meant(ip: Address) -> Address:
    """The IPv4 address within an IPv6 one that leads there."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _NAT64:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip
