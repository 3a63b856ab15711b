"""The text of /metrics: this process's series, vLLM's among them, and control's as they were when it last answered."""

import asyncio
import time
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway.metrics import ACTIVE, CONTROL_AGE, CONTROL_UP, HELD, LOG_LINES_LOST, LOOP_LAG, MODEL_HEALTHY, VERSION
from gateway.sidecar.control_link import ControlProxy
from stepserve.contract import CONTROL_METRICS_PATH
from stepserve.logs import lost_lines
from stepserve.loop_lag import LoopLag

CONTENT_TYPE = CONTENT_TYPE_LATEST
_CONTROL_TIMEOUT_S = 2.0


@dataclass(slots=True)
class Exposition:
    control: ControlProxy
    lag: LoopLag
    _seen: bytes = b""
    _seen_at_s: float = 0.0

    async def text(self, *, held: int, ready: bool, healthy: bool, version: int = 0) -> bytes:
        """Renders in a thread: with several models it takes milliseconds, in which tokens should flow."""
        fresh = await self.control.fetch(CONTROL_METRICS_PATH, _CONTROL_TIMEOUT_S)
        now_s = time.monotonic()
        if fresh is not None:
            self._seen, self._seen_at_s = fresh, now_s
        HELD.set(held)
        ACTIVE.set(ready)
        MODEL_HEALTHY.set(healthy)
        VERSION.set(version)
        LOG_LINES_LOST.set(lost_lines())
        LOOP_LAG.set(self.lag.worst_s())
        CONTROL_UP.set(fresh is not None)
        CONTROL_AGE.set(now_s - self._seen_at_s if self._seen else 0.0)
        return await asyncio.to_thread(generate_latest) + self._seen
