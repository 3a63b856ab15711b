"""Requests and tokens a minute, counted by the `limits` library: in memory, or in Redis for several gateways."""

import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import StorageError
from limits.storage import storage_from_string

log = logging.getLogger(__name__)

WINDOW_S = 60.0
_LOCAL_FOR_S = 5.0
_STORE_TIMEOUT_S = 0.5
_NAMESPACE = "stepserve"


class StoreRefused(Exception):
    """The store of rates cannot be used at all; one sentence says why."""


class Rates:
    """Sliding windows of a minute. While the store cannot be reached each gateway counts for itself, rather than let
    everything through or nothing.
    """

    def __init__(self, store_url: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises StoreRefused."""
        self._local = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._shared: SlidingWindowCounterRateLimiter | None = None
        self._close: Callable[[], Awaitable[None]] | None = None
        if store_url:
            storage, self._close = _redis(store_url)
            self._shared = SlidingWindowCounterRateLimiter(storage)
        self._local_until = 0.0
        self._clock = clock

    async def take(self, name: str, limit_per_min: int, cost: int = 1) -> float | None:
        """Takes `cost` off the minute's allowance. None: taken; else after how many seconds it could be."""
        item = RateLimitItemPerMinute(limit_per_min, namespace=_NAMESPACE)
        if (limiter := self._limiter()) is not self._local:
            try:
                return (
                    None if await limiter.hit(item, name, cost=cost) else await self._wait_s(limiter, item, name, cost)
                )
            except StorageError as error:
                self._go_local(error)
        if await self._local.hit(item, name, cost=cost):
            return None
        return await self._wait_s(self._local, item, name, cost)

    async def left(self, name: str, limit_per_min: int) -> int:
        """What is left of the minute's allowance."""
        item = RateLimitItemPerMinute(limit_per_min, namespace=_NAMESPACE)
        if (limiter := self._limiter()) is not self._local:
            try:
                return (await limiter.get_window_stats(item, name)).remaining
            except StorageError as error:
                self._go_local(error)
        return (await self._local.get_window_stats(item, name)).remaining

    async def spend(self, name: str, limit_per_min: int, cost: int) -> None:
        """Takes what was used, after the fact: at most all that is left."""
        if cost <= 0 or await self.take(name, limit_per_min, cost) is None:
            return
        if (left := await self.left(name, limit_per_min)) > 0:
            await self.take(name, limit_per_min, min(cost, left))

    async def close(self) -> None:
        if self._close is not None:
            await self._close()

    @staticmethod
    async def _wait_s(
        limiter: SlidingWindowCounterRateLimiter, item: RateLimitItemPerMinute, name: str, cost: int
    ) -> float:
        left = (await limiter.get_window_stats(item, name)).remaining
        return wait_s(item.amount, item.amount - left, cost)

    def _limiter(self) -> SlidingWindowCounterRateLimiter:
        if self._shared is None or self._clock() < self._local_until:
            return self._local
        return self._shared

    def _go_local(self, error: Exception) -> None:
        log.error("the store of rates cannot be used, this gateway counts for itself: %s", error.__cause__ or error)
        self._local_until = self._clock() + _LOCAL_FOR_S


def wait_s(limit: int, used: int, cost: int) -> float:
    """Until `cost` fits again, when what was used in the last minute wears off evenly."""
    missing = used + cost - limit
    if used <= 0 or missing <= 0:
        return 1.0
    return min(WINDOW_S, max(1.0, WINDOW_S * missing / used))


def _redis(url: str) -> tuple[Storage, Callable[[], Awaitable[None]]]:
    """The store, and how to close it. Raises StoreRefused."""
    try:
        from redis.asyncio import ConnectionPool  # noqa: PLC0415 - only who shares rates installs it
        from redis.asyncio.retry import Retry  # noqa: PLC0415 - likewise
        from redis.backoff import NoBackoff  # noqa: PLC0415 - likewise
    except ModuleNotFoundError as error:
        raise StoreRefused(
            "limits.store_url needs the package redis: it comes with the extra `redis` of stepserve-server"
        ) from error
    plain = url.removeprefix("redis+") if url.startswith("redis+unix") else url
    pool = ConnectionPool.from_url(
        plain,
        socket_timeout=_STORE_TIMEOUT_S,
        socket_connect_timeout=_STORE_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),  # a request waits for this: rather count here at once
    )
    options: dict[str, Any] = {"implementation": "redispy", "wrap_exceptions": True, "connection_pool": pool}
    storage = storage_from_string(f"async+{url}", **options)
    assert isinstance(storage, Storage)
    return storage, pool.aclose
