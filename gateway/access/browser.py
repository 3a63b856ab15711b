"""Where no key is needed, a web page must not be able to use the server through its reader's browser."""

import ipaddress
import socket
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from gateway.errors import Forbidden
from gateway.http.asgi import Scope

_LOOPBACK_SUFFIX = ".localhost"  # RFC 6761: never asked of a DNS server
_SHOWN = 100


@dataclass(frozen=True, slots=True)
class BrowserGuard:
    """Refuses pages of other sites (`Origin`), and names that only a hostile DNS would point here (`Host`).

    `names`: what else the server may be called, or `*`, in lower case.
    """

    origins: frozenset[str]
    names: frozenset[str] = frozenset()
    own_names: frozenset[str] = field(default_factory=lambda: frozenset({"localhost", socket.gethostname().lower()}))

    def check(self, scope: Scope) -> None:
        """Raises Forbidden."""
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if not self._is_ours(host):
            raise Forbidden(
                f"Host {host[:_SHOWN]!r} is not allowed without keys: use localhost or an IP address, list the name in"
                " access.host_names, or create a key and use it."
            )
        origin = headers.get(b"origin")
        if origin is not None and not self._may(origin.decode("latin-1").lower(), host):
            page = origin.decode("latin-1")[:_SHOWN]
            raise Forbidden(f"A page of {page!r} may not use this server (setting access.cors_origins).")

    def _may(self, origin: str, host: str) -> bool:
        return "*" in self.origins or origin in self.origins or urlsplit(origin).netloc == host

    def _is_ours(self, host: str) -> bool:
        if not host or "*" in self.names:  # without one: HTTP/1.0, which no browser speaks
            return True
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        if not name:
            return False
        name = name.removesuffix(".")
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.own_names or name in self.names or name.endswith(_LOOPBACK_SUFFIX)
        return True
