"""Which address a request comes from, where proxies stand before the server."""

import ipaddress
from collections.abc import Iterable

from gateway.http.asgi import Scope

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_FORWARDED_FOR = b"x-forwarded-for"
_LONGEST_BYTES = 4096


class TrustedProxies:
    """Takes `X-Forwarded-For` from the settings' proxies and from nobody else; other headers of its kind from nobody.

    The client is the last address in it that is no proxy: what stands before that was written by the client.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        """`networks`: CIDRs or single addresses. Raises ValueError."""
        self._networks: tuple[_Network, ...] = tuple(ipaddress.ip_network(each, strict=False) for each in networks)

    def see(self, scope: Scope) -> None:
        """Puts the client's address in the scope's `client`, if a proxy passed the request on."""
        client = scope.get("client")
        if not self._networks or not client or not self._is_proxy(found := address_of(str(client[0]))):
            return
        given = b",".join(value for name, value in scope["headers"] if name == _FORWARDED_FOR)
        for hop in reversed(given[-_LONGEST_BYTES:].decode("latin-1").split(",")):
            address = address_of(hop)
            if address is None:  # nothing before it can be believed
                break
            found = address
            if not self._is_proxy(address):
                break
        scope["client"] = (str(found), 0)

    def _is_proxy(self, address: _Address | None) -> bool:
        return address is not None and any(address in network for network in self._networks)


def address_of(text: str) -> _Address | None:
    """An address, with a port or without, one of IPv4 in IPv6 as IPv4. None for anything else."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
