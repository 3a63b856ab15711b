"""All that is measured here, as routes and metrics ask for it."""

import asyncio
from collections.abc import Awaitable
from concurrent.futures import Future

from control.gateway_client import GatewayClient
from control.telemetry.cards import CardReader
from control.telemetry.meter import EnergyMeter
from control.telemetry.sampler import CardSampler, in_thread
from control.telemetry.system import SystemReader, SystemSeen
from stepserve.jobs.ports import CardUse
from stepserve.settings import Settings

CPU_EVERY_S = 1.0


class Telemetry:
    def __init__(self, reader: CardReader, gateway: GatewayClient, settings: Settings) -> None:
        layout = settings.layout
        self.meter = EnergyMeter(gateway)
        self.cards = CardSampler(reader, settings.telemetry.interval_s, self.meter.take)
        self._system = SystemReader([layout.base, layout.models])
        self._reading: Future[SystemSeen] | None = None

    async def run(self) -> None:
        """Samples the processor's load each second, for everybody who asks for it; until cancelled."""
        while True:
            self._system.sample_cpu()
            await asyncio.sleep(CPU_EVERY_S)

    async def system(self) -> SystemSeen:
        """Read when asked; requests that come together share one reading."""
        if self._reading is None or self._reading.done():
            self._reading = in_thread(self._system.read)
        return await asyncio.shield(asyncio.wrap_future(self._reading))

    def of_job(self, job_id: str) -> Awaitable[CardUse]:
        return self.meter.of_job(job_id, self.cards)
