"""What a key may still use: concurrency here and now, requests and tokens by the minute."""

from collections import defaultdict

from gateway.access.rates import WINDOW_S, Rates
from gateway.errors import TooManyRequests
from gateway.request.estimate import RequestEstimate
from stepserve.access import KeyRecord


class KeyQuotas:
    """Concurrency and reserved tokens are this gateway's own; rates are shared where their store is."""

    def __init__(self, rates: Rates) -> None:
        self._rates = rates
        self._running: defaultdict[str, int] = defaultdict(int)
        self._reserved: defaultdict[str, int] = defaultdict(int)

    async def enter(self, record: KeyRecord) -> None:
        """One more request of this key. `leave` must follow, unless this raises TooManyRequests."""
        running = self._running[record.id]
        if record.max_concurrent is not None and running >= record.max_concurrent:
            raise TooManyRequests(
                f"The key {record.id} has {running} requests running, which is its limit (max_concurrent).", 1.0
            )
        self._running[record.id] += 1
        if record.requests_per_min is None:
            return
        try:
            wait_s = await self._rates.take(f"{record.id}:requests", record.requests_per_min)
            if wait_s is not None:
                raise TooManyRequests(
                    f"The key {record.id} has used its {record.requests_per_min} requests a minute.", wait_s
                )
        except BaseException:
            self.leave(record)
            raise

    def leave(self, record: KeyRecord) -> None:
        self._running[record.id] -= 1
        if self._running[record.id] <= 0:
            del self._running[record.id]

    async def reserve(self, record: KeyRecord, asked: RequestEstimate) -> int:
        """Holds the tokens that a request may use; `settle` must follow with this number. Raises TooManyRequests."""
        limit = record.tokens_per_min
        if limit is None:
            return 0
        if asked.tokens > limit:
            raise TooManyRequests(
                f"The request may use about {asked.tokens} tokens; the key {record.id} has {limit} a minute."
                " Ask for fewer (max_tokens).",
                WINDOW_S,
            )
        # Held before the store is asked: while that answers, another request may come.
        self._reserved[record.id] += asked.tokens
        try:
            left = await self._rates.left(f"{record.id}:tokens", limit)
            if self._reserved[record.id] > left:
                missing = self._reserved[record.id] - left
                raise TooManyRequests(
                    f"The key {record.id} has about {max(0, left)} of its {limit} tokens a minute left;"
                    f" this request may use {asked.tokens}.",
                    min(WINDOW_S, max(1.0, WINDOW_S * missing / limit)),
                )
        except BaseException:
            self._release(record, asked.tokens)
            raise
        return asked.tokens

    async def settle(self, record: KeyRecord, reserved: int, used: int) -> None:
        """Turns a reservation into what was used."""
        if record.tokens_per_min is None:
            return
        try:
            await self._rates.spend(f"{record.id}:tokens", record.tokens_per_min, used)
        finally:
            self._release(record, reserved)

    def _release(self, record: KeyRecord, tokens: int) -> None:
        self._reserved[record.id] -= tokens
        if self._reserved[record.id] <= 0:
            del self._reserved[record.id]
