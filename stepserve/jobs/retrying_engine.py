"""A batch engine that retries while the gateway is away."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from stepserve.contract import AskRequest, AskResult, BatchRequest, BatchResult
from stepserve.jobs.errors import GatewayUnavailable
from stepserve.jobs.ports import BatchEngine

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


class RetryingEngine:
    """Asks again after an exponential, jittered pause; lets GatewayUnavailable through after `give_up_after_s`."""

    def __init__(self, engine: BatchEngine, give_up_after_s: float = 300.0, longest_pause_s: float = 10.0) -> None:
        self._engine = engine
        self._give_up_after_s = give_up_after_s
        self._longest_pause_s = longest_pause_s

    async def generate(self, request: BatchRequest) -> BatchResult:
        return await self._retried(self._engine.generate, request)

    async def ask(self, request: AskRequest) -> AskResult:
        return await self._retried(self._engine.ask, request)

    async def _retried(self, ask: Callable[[Asked], Awaitable[Answered]], request: Asked) -> Answered:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(GatewayUnavailable),
            wait=wait_random_exponential(multiplier=0.2, max=self._longest_pause_s),
            stop=stop_after_delay(self._give_up_after_s),
            reraise=True,
        )
        return await retrying(ask, request)
