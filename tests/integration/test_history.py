"""What was served stays known: seconds while control runs, minutes in the database."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from control.clock import utc_now
from control.database.database import Database, url_of
from control.gateway_client import GatewayClient
from control.telemetry.history import History
from control.telemetry.nvml import Nvml
from control.telemetry.telemetry import Telemetry
from stepserve.contract import EngineDeath
from tests.eventually import eventually
from tests.integration.control_plane import control_plane, settings_of
from tests.integration.fake_gateway import FakeGateway
from tests.unit.control.recorded_nvml import H200, RecordedNvml


async def test_traffic_cards_and_a_death_are_in_it(tmp_path: Path) -> None:
    async with control_plane(tmp_path, card_reader=Nvml(RecordedNvml(H200))) as here:
        await here.add_active("a")
        await eventually(lambda: here.get("/history"), lambda told: told["samples"])
        here.gateway.served, here.gateway.first_token_counts = 40, [40, 0, 0]
        here.gateway.deaths = [EngineDeath(number=1, model_id="a", active=True, at=utc_now().isoformat())]
        told = await eventually(lambda: here.get("/history?window_s=600&samples=600"), lambda seen: seen["marks"])
        busy: dict[str, Any] = next(sample for sample in told["samples"] if sample["requests_per_s"])
        assert busy["tokens_per_s"]["a"] == pytest.approx(10 * busy["requests_per_s"], abs=0.01)
        assert 0 < busy["first_token_p50_s"] < busy["first_token_p99_s"] <= 0.1
        assert (busy["running"], busy["waiting"]) == (1, 2)
        assert busy["cards"][0]["power_draw_w"] == 214.37
        assert [(mark["kind"], mark["model"]) for mark in told["marks"]] == [("death", "a")]
        (whole,) = (await here.get("/history?window_s=600&samples=1"))["samples"]
        assert whole["span_s"] >= busy["span_s"]
        refused = await here.http.get("/history?window_s=0")
        assert refused.status_code == 422


async def test_minutes_are_there_after_a_restart_and_go_after_a_month(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    settings.layout.create()
    database = Database(url_of(settings))
    await database.migrate()
    fake = FakeGateway(settings.layout.gateway_socket)
    client = GatewayClient.at_socket(settings.layout.gateway_socket)
    began = utc_now().replace(second=0, microsecond=0) - timedelta(days=40)
    looks = 0

    def clock() -> Any:
        """Half a minute passes at each look, and 39 days at the fifth."""
        nonlocal looks
        looks += 1
        fake.served += 30
        return began + timedelta(seconds=30 * looks) + (timedelta(days=39) if looks >= 5 else timedelta())

    telemetry = Telemetry(Nvml(RecordedNvml()), client, settings)
    async with fake.running():
        running = asyncio.create_task(History(database, client, telemetry, 0.01, clock).run())
        after = History(database, client, telemetry)

        async def minutes() -> Any:
            return await after.between(began, 60.0)

        early = await eventually(minutes, bool)
        assert early[0].at < began + timedelta(minutes=2)
        late = await eventually(minutes, lambda seen: len(seen) > 2 and seen[0].at > began + timedelta(days=38))
        assert {minute.requests for minute in late[1:]} == {60}, "two samples of 30 each"
        running.cancel()
        await asyncio.wait({running})
    await client.close()
    await database.close()
