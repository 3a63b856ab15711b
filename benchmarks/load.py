"""A closed-loop load of chat completions: so many clients, each asking again as soon as it is answered."""

import asyncio
import time
from dataclasses import dataclass

import aiohttp

from demo.addition import split


@dataclass(frozen=True, slots=True)
class Load:
    """What one round measured. `latencies_s` is sorted: [n_requests]."""

    seconds: float
    latencies_s: list[float]

    @classmethod
    def together(cls, rounds: "list[Load]") -> "Load":
        """All rounds as one: their times added up, their latencies pooled."""
        pooled = sorted(latency for load in rounds for latency in load.latencies_s)
        return cls(sum(load.seconds for load in rounds), pooled)

    @property
    def requests_per_s(self) -> float:
        return len(self.latencies_s) / self.seconds

    def latency_ms(self, quantile: float) -> float:
        return 1000 * self.latencies_s[min(len(self.latencies_s) - 1, int(quantile * len(self.latencies_s)))]


def chat_load(url: str, model: str, clients: int, requests: int, key: str | None = None) -> Load:
    """Fails on the first answer that is not 200 or not the right sum."""
    return asyncio.run(_chat_load(url, model, clients, requests, key))


async def _chat_load(url: str, model: str, clients: int, requests: int, key: str | None) -> Load:
    _, held_out = split()
    work = iter(range(requests))
    latencies: list[float] = []

    async def client(session: aiohttp.ClientSession) -> None:
        for number in work:
            addition = held_out[number % len(held_out)]
            body = {"model": model, "temperature": 0, "messages": [{"role": "user", "content": addition.question}]}
            started = time.perf_counter()
            async with session.post(f"{url}/v1/chat/completions", json=body) as response:
                answer = await response.json()
            latencies.append(time.perf_counter() - started)
            if response.status != 200 or answer["choices"][0]["message"]["content"] != addition.answer:
                raise RuntimeError(f"{addition.question} was answered with {answer}")

    headers = {"authorization": f"Bearer {key}"} if key else None
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:
        started = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(clients)))
        seconds = time.perf_counter() - started
    return Load(seconds, sorted(latencies))
