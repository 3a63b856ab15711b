"""Where no key is needed, a web page must not be able to use the server through its reader's browser."""

import ipaddress
import socket
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from gateway.asgi import Scope
from gateway.errors import Forbidden

_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")


@dataclass(frozen=True, slots=True)
class BrowserGuard:
    """Refuses pages of other sites (`Origin`), and names that only a hostile DNS would point here (`Host`).

    `names_checked`: whether `Host` is looked at; not where an operator has opened the server to a network.
    """

    origins: frozenset[str]
    names_checked: bool
    own_names: frozenset[str] = field(default_factory=lambda: frozenset({"localhost", socket.gethostname().lower()}))

    def check(self, scope: Scope) -> None:
        """Raises Forbidden."""
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self.names_checked and not self._is_ours(host):
            raise Forbidden(f"This server is not called {host!r}. Ask it as localhost, or make keys and use one.")
        origin = headers.get(b"origin")
        if origin is not None and not self._may(origin.decode("latin-1").lower(), host):
            raise Forbidden(
                f"A page of {origin.decode('latin-1')!r} may not use this server (setting access.cors_origins)."
            )

    def _may(self, origin: str, host: str) -> bool:
        return "*" in self.origins or origin in self.origins or urlsplit(origin).netloc == host

    def _is_ours(self, host: str) -> bool:
        name = urlsplit(f"//{host}").hostname if host else None
        if name is None:  # HTTP/1.0, which no browser speaks
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.own_names or name.endswith(_LOCAL_SUFFIXES)
        return True
