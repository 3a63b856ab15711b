"""Joins what the cards say to what the gateway says, once a sample."""

import asyncio

from control.errors import GatewayUnavailable
from control.gateway_client import GatewayClient
from control.telemetry.cards import CardsSeen
from control.telemetry.energy import EnergyBook, gpu_seconds_between, joules_between
from control.telemetry.sampler import CardSampler
from stepserve.jobs.ports import CardUse


class EnergyMeter:
    """Without a card it asks the gateway nothing."""

    def __init__(self, gateway: GatewayClient) -> None:
        self._gateway = gateway
        self._before = CardsSeen()
        self._taking = asyncio.Lock()
        self.book = EnergyBook()

    async def take(self, seen: CardsSeen) -> None:
        if not seen.cards:
            return
        async with self._taking:  # reports have to come into the book in the order in which they were made
            joules, gpu_s = joules_between(self._before, seen), gpu_seconds_between(self._before, seen)
            self._before = seen
            try:
                report = await self._gateway.usage()
            except GatewayUnavailable:
                report = None
            self.book.tick(joules, report, gpu_s)

    async def of_job(self, job_id: str, sampler: CardSampler) -> CardUse:
        """What a job used until now, its last second included."""
        if not sampler.seen.cards:
            return CardUse()
        if sampler.is_looking:  # that look began before, and its joules may be nobody's yet
            await sampler.look()
        await sampler.look()
        return self.book.of_job(job_id)
