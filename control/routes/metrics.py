"""GET /metrics on control's own socket: the gateway adds it to its own."""

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from control.errors import DatabaseUnavailable
from control.exposition import Shown, families
from control.services import Wired

router = APIRouter()


@router.get("/metrics")
async def metrics(services: Wired) -> Response:
    try:
        census = await services.queue.census()
    except DatabaseUnavailable:
        census = None
    shown = Shown(
        census=census,
        cards=services.telemetry.cards.seen,
        system=await services.telemetry.system(),
        book=services.telemetry.meter.book,
        power=services.governor.state,
        held=services.runner.held,
        loop_lag_s=services.lag.worst_s(),
    )
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(shown))
    return Response(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")


class _Once(Collector):
    def __init__(self, shown: Shown) -> None:
        self._families = families(shown)

    def collect(self) -> list[Metric]:
        return self._families
