"""The names of routes as metrics show them: as many as there are routes, however many paths are asked for."""

from gateway.inference.dispatch import POST_PATHS
from stepserve.contract import CONTROL_PREFIXES

OTHER = "other"
_OWN = (
    "/health", "/livez", "/readyz", "/info", "/config", "/version", "/status", "/diag", "/metrics", "/ui",
    "/generate", "/chat", "/solve", "/openapi.json", "/v1/models", "/v1/responses",
    "/api/chat", "/api/generate", "/api/tags", "/api/show", "/api/ps", "/api/version", "/api/pull",
    "/api/embed", "/api/embeddings",
)  # fmt: skip
ROUTES = frozenset((*POST_PATHS, *CONTROL_PREFIXES, *_OWN, "/"))


def route_of(path: str) -> str:
    """The longest known route that `path` is or lies below; a tier's `/fast/v1/…` counts as `/v1/…`."""
    if path in ROUTES:
        return path
    at = path.find("/v1/")
    if at > 0 and "/" not in path[1:at]:
        path = path[at:]
    while path:
        if path in ROUTES:
            return path
        path = path.rpartition("/")[0]
    return OTHER
