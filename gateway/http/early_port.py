"""The public port before the event loop runs: the kernel takes connections, and keeps what they send until then."""

import socket
from dataclasses import dataclass
from typing import Self

from stepserve.address import is_loopback, loopback_for

_BACKLOG = 2048  # as uvicorn's


@dataclass(slots=True)
class EarlyPort:
    """`sockets` listen on `host`. Whoever takes them closes them."""

    host: str
    sockets: list[socket.socket]

    @classmethod
    def of(cls, host: str, port: int, *, reachable: bool) -> Self:
        """On `host` itself where others than this machine may come in, else on loopback alone. Raises OSError."""
        narrow = host if reachable or is_loopback(host) else loopback_for(host)
        return cls(narrow, _listening(narrow, port))

    def take(self, host: str) -> list[socket.socket] | None:
        """Those for `host`, once; None where a server is to open its own."""
        if host != self.host or not self.sockets:
            return None
        taken, self.sockets = self.sockets, []
        return taken


def _listening(host: str, port: int) -> list[socket.socket]:
    """On every address that `host` stands for, as an event loop's own server does."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    opened: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listener = socket.socket(family, kind, protocol)
            opened.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
    except OSError:
        for each in opened:
            each.close()
        raise
    return opened
