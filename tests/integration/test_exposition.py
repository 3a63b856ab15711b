"""/metrics while control is there, and while it is not."""

import asyncio
import re
from pathlib import Path

import uvicorn
from prometheus_client import REGISTRY
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from gateway.sidecar.control_link import ControlProxy
from gateway.status.exposition import Exposition
from stepserve.loop_lag import LoopLag
from tests.eventually import eventually


def value(text: bytes, name: str) -> float:
    found = re.search(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text.decode(), re.MULTILINE)
    assert found, f"{name} is not there"
    return float(found[1])


async def test_controls_series_stay_when_control_goes(tmp_path: Path) -> None:
    socket = tmp_path / "control.sock"
    app = Starlette(routes=[Route("/metrics", lambda _: PlainTextResponse("stepserve_queue_depth 3\n"))])
    server = uvicorn.Server(uvicorn.Config(app, uds=str(socket), log_config=None, lifespan="off", ws="none"))
    link = ControlProxy(socket, 1000, 1000)
    lag = LoopLag()
    exposition = Exposition(link, lag)
    before = await exposition.text(held=0, ready=False, healthy=False)
    assert value(before, "stepserve_control_up") == 0
    assert b"stepserve_queue_depth" not in before

    task = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    there = await exposition.text(held=2, ready=True, healthy=True)
    assert value(there, "stepserve_control_up") == 1
    assert value(there, "stepserve_queue_depth") == 3
    assert (value(there, "stepserve_held_requests"), value(there, "stepserve_engine_ready")) == (2, 1)

    lag.note(7.0)
    assert value(await exposition.text(held=0, ready=True, healthy=True), "stepserve_event_loop_lag_seconds") == 7

    server.should_exit = True
    await task
    gone = await exposition.text(held=0, ready=True, healthy=True)
    assert value(gone, "stepserve_control_up") == 0
    assert value(gone, "stepserve_queue_depth") == 3, "what was last known"
    assert value(gone, "stepserve_control_metrics_age_seconds") > 0
    assert len(re.findall(rb"^# TYPE (\S+) ", gone, re.MULTILINE)) == len(
        set(re.findall(rb"^# TYPE (\S+) ", gone, re.MULTILINE))
    ), "no family is there twice"
    await link.close()
    assert REGISTRY.get_sample_value("stepserve_proofs_total", {"kind": "reference", "passed": "false"}) is not None
