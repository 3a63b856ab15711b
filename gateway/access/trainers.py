"""Trainers that send no key, as TRL's client: which addresses they ask from."""

import ipaddress
from collections.abc import Iterable

from gateway.access.proxies import address_of
from gateway.http.asgi import Scope


class Trainers:
    """The addresses and networks of the setting access.trainers."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        """`networks`: CIDRs or single addresses. Raises ValueError."""
        self._networks = tuple(ipaddress.ip_network(each, strict=False) for each in networks)

    def has(self, scope: Scope) -> bool:
        """Whether a request comes from one of them."""
        client = scope.get("client")
        address = address_of(str(client[0])) if client and self._networks else None
        return address is not None and any(address in network for network in self._networks)
