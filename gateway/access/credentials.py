"""What a request's head says of who asks, and what of it goes further in."""

from gateway.errors import BadPath
from gateway.http.asgi import Scope
from stepserve.access import CLIENT_HEADER, KEY_HEADER, PRIVATE_HEADER_PREFIX, SCOPES, SCOPES_HEADER
from stepserve.access import Scope as KeyScope

_BEARER = b"bearer "
_SECRETS = frozenset({b"authorization", b"x-api-key", b"cookie", b"proxy-authorization"})

Headers = list[tuple[bytes, bytes]]


def token_of(headers: Headers) -> str | None:
    """The key in `Authorization: Bearer` or `X-API-Key`; None where neither is."""
    other = None
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == _BEARER:
            return value[7:].strip().decode("latin-1")
        if name == b"x-api-key":
            other = value.strip().decode("latin-1")
    return other or None


def check_path(path: str) -> None:
    """Raises BadPath for a path that could mean another one further in than the one whose scope was looked up."""
    if "/../" in path or "/./" in path or path.endswith(("/..", "/.")) or "\\" in path or "\x00" in path:
        raise BadPath("Path contains `.`, `..`, a backslash or NUL.")


def stamp(scope: Scope, actor: str, scopes: frozenset[KeyScope]) -> None:
    """Takes secrets and private headers off the request, and puts on it whom it was found to come from."""
    kept = [
        pair for pair in scope["headers"] if pair[0] not in _SECRETS and not pair[0].startswith(PRIVATE_HEADER_PREFIX)
    ]
    kept.append((KEY_HEADER, actor.encode("latin-1")))
    kept.append((SCOPES_HEADER, ",".join(name for name in SCOPES if name in scopes).encode()))
    client = scope.get("client")
    if client:
        kept.append((CLIENT_HEADER, str(client[0]).encode("latin-1", "replace")))
    scope["headers"] = kept
