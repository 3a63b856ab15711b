"""Clients that ask all through a switch and compare each answer with what the weights that it names answer at rest."""

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import httpx

QUESTION = [{"role": "user", "content": "What is 58+67?"}]


@dataclass(frozen=True, slots=True)
class Answer:
    """`asked_s` and `answered_s` are `time.perf_counter`'s; `digest` is of the weights that the answer names."""

    asked_s: float
    answered_s: float
    digest: str
    is_stream: bool


@dataclass(slots=True)
class Tally:
    """What the clients saw."""

    answers: list[Answer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def latencies_s(self) -> list[float]:
        """Of the short requests: those of the streams depend on their length."""
        return [each.answered_s - each.asked_s for each in self.answers if not each.is_stream]

    def p99_ms(self) -> float:
        ordered = sorted(self.latencies_s) or [0.0]
        return 1000 * ordered[int(0.99 * (len(ordered) - 1))]


class Clients:
    def __init__(self, url: str, expected: dict[str, str], streams: int, closed_loop: int) -> None:
        self._url = f"{url}/v1/chat/completions"
        self._expected = expected
        self._counts = (streams, closed_loop)
        self._stopped = False
        self.tally = Tally()

    async def run(self, switches: asyncio.Future[Any]) -> None:
        """Asks until `switches` is done."""
        self._stopped = False
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            streams = self._counts[0]
            tasks = [
                asyncio.create_task(self._client(session, number < streams)) for number in range(sum(self._counts))
            ]
            with suppress(asyncio.CancelledError):
                await switches
            self._stopped = True
            await asyncio.gather(*tasks)

    async def run_for(self, seconds: float) -> None:
        await self.run(asyncio.ensure_future(asyncio.sleep(seconds)))

    async def _client(self, session: aiohttp.ClientSession, stream: bool) -> None:
        body = {"model": "active", "messages": QUESTION, "temperature": 0, "stream": stream}
        while not self._stopped:
            started = time.perf_counter()
            try:
                async with session.post(self._url, json=body) as response:
                    text = await response.text()
                    digest = response.headers.get("x-model-digest", "")
                answer = _streamed(text) if stream else json.loads(text)["choices"][0]["message"]["content"]
            except (aiohttp.ClientError, KeyError, ValueError) as error:
                self.tally.failures.append(repr(error))
                continue
            self.tally.answers.append(Answer(started, time.perf_counter(), digest, stream))
            if self._expected.get(digest) != answer:
                self.tally.wrong.append(f"{digest}: {answer!r}")


def _streamed(text: str) -> str:
    events = [line.removeprefix("data: ") for line in text.splitlines() if line]
    if not events or events[-1] != "[DONE]":
        raise ValueError(f"a stream broke off: {text[-200:]!r}")
    chunks = [json.loads(event) for event in events[:-1]]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


def activate(client: httpx.Client, model_id: str, method: str) -> dict[str, Any]:
    result: dict[str, Any] = (
        client.post("/models/set_active", json={"id": model_id, "method": method}).raise_for_status().json()
    )
    return result


def ask(client: httpx.Client) -> tuple[str, str]:
    """The digest that the answer names, and the answer."""
    body = {"model": "active", "messages": QUESTION, "temperature": 0}
    response = client.post("/v1/chat/completions", json=body).raise_for_status()
    return response.headers["x-model-digest"], response.json()["choices"][0]["message"]["content"]
