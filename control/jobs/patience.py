"""A batch engine that waits for a gateway that is away for a while."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from control.errors import GatewayUnavailable
from stepserve.contract import AskRequest, AskResult, BatchRequest, BatchResult
from stepserve.jobs.ports import BatchEngine

Asked = TypeVar("Asked")
Answered = TypeVar("Answered")


class PatientEngine:
    """Asks again after a growing, jittered pause; GatewayUnavailable comes through after `patience_s` in vain."""

    def __init__(self, engine: BatchEngine, patience_s: float = 300.0, longest_pause_s: float = 10.0) -> None:
        self._engine = engine
        self._patience_s = patience_s
        self._longest_pause_s = longest_pause_s

    async def generate(self, request: BatchRequest) -> BatchResult:
        return await self._patiently(self._engine.generate, request)

    async def ask(self, request: AskRequest) -> AskResult:
        return await self._patiently(self._engine.ask, request)

    async def _patiently(self, ask: Callable[[Asked], Awaitable[Answered]], request: Asked) -> Answered:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(GatewayUnavailable),
            wait=wait_random_exponential(multiplier=0.2, max=self._longest_pause_s),
            stop=stop_after_delay(self._patience_s),
            reraise=True,
        )
        return await retrying(ask, request)
