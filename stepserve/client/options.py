"""What both clients are made with, and how patient they are."""

import time
from typing import Any

import httpx

from stepserve.client.address import default_key, resolve
from stepserve.client.errors import StepserveError

TIMEOUT_S = 30.0
RETRY_S = 30.0
SILENCE_S = 30.0  # the server says something at least every ten seconds while a job is watched
PATIENCE_S = 600.0
RECONNECT_PAUSE_S = 1.0
MAX_CONNECTIONS = 16


class Options:
    """Where the server is, what opens it, and how long to wait and ask again."""

    def __init__(self, url: str | None, api_key: str | None, timeout_s: float, retry_s: float) -> None:
        self.url = resolve(url)
        self.timeout_s = timeout_s
        self.retry_s = retry_s
        self._api_key = api_key or default_key()

    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._api_key}"} if self._api_key else {}

    def arguments(self) -> dict[str, Any]:
        """For httpx's clients."""
        limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS)
        return {
            "base_url": self.url,
            "headers": self.headers(),
            "timeout": self.timeout_s,
            "limits": limits,
            "trust_env": False,
        }


class Away:
    """Patience with a server that is away: raises the last error once it has been away for too long."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._since_s: float | None = None

    def is_back(self) -> None:
        self._since_s = None

    def check(self, error: StepserveError) -> None:
        now_s = time.monotonic()
        self._since_s = self._since_s or now_s
        if now_s - self._since_s >= self._patience_s:
            raise error
