"""Asking again while the gateway is away."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from stepserve.jobs.errors import GatewayUnavailable

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


@dataclass(frozen=True, slots=True)
class Patience:
    """Asks again after an exponential, jittered pause; lets GatewayUnavailable through after `give_up_after_s`."""

    give_up_after_s: float = 300.0
    longest_pause_s: float = 10.0

    async def __call__(self, ask: Callable[[Asked], Awaitable[Answered]], request: Asked) -> Answered:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(GatewayUnavailable),
            wait=wait_random_exponential(multiplier=0.2, max=self.longest_pause_s),
            stop=stop_after_delay(self.give_up_after_s),
            reraise=True,
        )
        return await retrying(ask, request)
