"""GET /metrics on control's own socket: the gateway adds it to its own."""

from contextlib import suppress

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from control.errors import DatabaseUnavailable
from control.exposition import Shown, families
from control.fleet.members import Members
from control.fleet.rollouts import Rollouts
from control.jobs.queue import Census, JobQueue
from control.jobs.runner import JobRunner
from control.power.governor import Governor
from control.services import Given
from control.telemetry.telemetry import Telemetry
from stepserve.loop_lag import LoopLag

router = APIRouter()


@router.get("/metrics")
async def metrics(
    queue: Given[JobQueue],
    telemetry: Given[Telemetry],
    governor: Given[Governor],
    runner: Given[JobRunner],
    lag: Given[LoopLag],
    members: Given[Members],
    rollouts: Given[Rollouts],
) -> Response:
    census: Census | None = None
    ended: dict[str, int] | None = None
    with suppress(DatabaseUnavailable):
        census, ended = await queue.census(), await rollouts.counts()
    shown = Shown(
        census=census,
        members=members.counts(),
        rollouts=ended,
        cards=telemetry.cards.seen,
        system=await telemetry.system(),
        book=telemetry.meter.book,
        power=governor.state,
        held=runner.held,
        loop_lag_s=lag.worst_s(),
    )
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(shown))
    return Response(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")


class _Once(Collector):
    def __init__(self, shown: Shown) -> None:
        self._families = families(shown)

    def collect(self) -> list[Metric]:
        return self._families
