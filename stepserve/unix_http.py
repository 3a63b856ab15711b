"""HTTP over a Unix socket: between the two processes of a server."""

from pathlib import Path

import httpx


def unix_transport(socket: Path) -> httpx.AsyncHTTPTransport:
    """As many connections as there are requests: an event stream has one for as long as it is watched.

    Idle ones are dropped sooner than either process would, so none is stale. No TLS is ever spoken there, so none is
    prepared: reading the certificates alone takes 60 ms.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20, keepalive_expiry=3.0)
    return httpx.AsyncHTTPTransport(uds=str(socket), verify=False, limits=limits)
