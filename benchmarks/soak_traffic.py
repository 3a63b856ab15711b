"""Everything that a server is used for in a day, at once, for as long as it is let."""

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
from safetensors.torch import load_file

from benchmarks.processes import CHECKPOINT, MODEL_ID
from benchmarks.soak_drift import Point
from stepserve import Client
from stepserve.contract import ACTIVE_ALIAS

OTHER_ID = "soak-early"
EARLY = CHECKPOINT.parent / "step-0500"
_TIMEOUT = aiohttp.ClientTimeout(total=120)
_LEAVES_AFTER = 3  # pieces of a stream
_POLLED = (
    "/status",
    "/jobs?limit=50",
    "/jobs/stats",
    "/models",
    "/history?window_s=3600",
    "/models/activations",
)
_FAILURES_KEPT = 20
_QUESTION = [{"role": "user", "content": "What is 58+67?"}]


class Traffic:
    """`latencies`: of whole answers to chats that are no streams, in seconds. `counts`: what was done, by its name."""

    def __init__(self, url: str, key: str, seed: int = 0) -> None:
        self.latencies: list[Point] = []
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self._url = url
        self._headers = {"authorization": f"Bearer {key}"}
        self._key = key
        self._random = random.Random(seed)
        self._since_s = time.monotonic()

    async def run(self, seconds: float) -> None:
        """Raises nothing that a server does: see `failures`."""
        weights = await asyncio.to_thread(
            lambda: [load_file(path / "model.safetensors") for path in (CHECKPOINT, EARLY)]
        )
        methods = itertools.cycle(("in_place", "blue_green"))
        models = itertools.cycle((OTHER_ID, MODEL_ID))
        pushed = itertools.cycle(weights)
        async with aiohttp.ClientSession(self._url, headers=self._headers, timeout=_TIMEOUT) as http:
            work: list[tuple[str, float, Callable[[], Awaitable[None]]]] = [
                *(("chat", 0.05, lambda: self._chat(http)) for _ in range(4)),
                *(("stream", 0.2, lambda: self._stream(http, leaves=False)) for _ in range(2)),
                ("client that leaves", 0.5, lambda: self._stream(http, leaves=True)),
                ("switch", 60, lambda: self._switch(http, next(models), next(methods))),
                ("push of weights", 90, lambda: self._push(next(pushed))),
                ("eval", 45, lambda: self._evaluate(http)),
                ("data generation", 75, lambda: self._generate(http)),
                ("key", 10, lambda: self._key_made_and_revoked(http)),
                ("scrape", 5, lambda: self._get(http, "/metrics")),
                ("poll of the UI", 2, lambda: self._poll(http)),
            ]  # fmt: skip
            tasks = [asyncio.create_task(self._repeat(*one)) for one in work]
            await asyncio.sleep(seconds)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _repeat(self, what: str, every_s: float, do: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(self._random.uniform(0.5, 1.5) * every_s)
            try:
                await do()
            except (aiohttp.ClientError, TimeoutError, RuntimeError) as error:
                self.counts[f"{what}: failed"] += 1
                if len(self.failures) < _FAILURES_KEPT:
                    self.failures.append(f"{what} after {time.monotonic() - self._since_s:.0f} s: {error!r}")
            else:
                self.counts[what] += 1

    async def _chat(self, http: aiohttp.ClientSession) -> None:
        started = time.monotonic()
        await self._post(http, "/v1/chat/completions", model=ACTIVE_ALIAS, messages=_QUESTION)
        ended = time.monotonic()
        self.latencies.append(Point(ended - self._since_s, ended - started))

    async def _stream(self, http: aiohttp.ClientSession, *, leaves: bool) -> None:
        body = {"model": ACTIVE_ALIAS, "prompt": "7", "max_tokens": 60, "ignore_eos": True, "stream": True}
        async with http.post("/v1/completions", json=body) as answer:
            pieces, line = 0, b""
            async for line in answer.content:
                pieces += line.startswith(b"data: ")
                if leaves and pieces == _LEAVES_AFTER:
                    return
                if line.strip() == b"data: [DONE]":
                    return
        raise RuntimeError(f"a stream ended with {answer.status} and {line!r}")

    async def _switch(self, http: aiohttp.ClientSession, model_id: str, method: str) -> None:
        await self._post(http, "/models/set_active", id=model_id, method=method)

    async def _push(self, weights: Any) -> None:
        def push() -> None:
            with Client(self._url, api_key=self._key) as client:
                client.push_weights(weights)

        try:
            await asyncio.to_thread(push)
        except Exception as error:
            raise RuntimeError(str(error)) from error

    async def _evaluate(self, http: aiohttp.ClientSession) -> None:
        await self._job(http, "/eval/jobs", name="soak", dataset_ref="math_eval.jsonl", max_samples=100)

    async def _generate(self, http: aiohttp.ClientSession) -> None:
        rows = [{"a": self._random.randint(10, 99), "b": self._random.randint(10, 99)} for _ in range(20)]
        config = {"template": "What is {{a}}+{{b}}?", "verify": "executed", "num_examples": 10, "rows": rows}
        await self._job(http, "/data_gen/jobs", strategy="custom", config=config)

    async def _job(self, http: aiohttp.ClientSession, path: str, **body: Any) -> None:
        made = await self._post(http, path, model_id=ACTIVE_ALIAS, **body)
        job: dict[str, Any] = {"status": "pending"}
        while job["status"] in {"pending", "running"}:
            await asyncio.sleep(1)
            job = await self._get(http, f"/jobs/{made['job_id']}")
        if job["status"] != "done":
            raise RuntimeError(f"{job['job_id']} {job['status']}: {job['error']}")

    async def _key_made_and_revoked(self, http: aiohttp.ClientSession) -> None:
        made = await self._post(http, "/keys", name="soak", scopes=["infer"])
        headers = {"authorization": f"Bearer {made['key']}"}
        await self._post(http, "/v1/chat/completions", headers, model=ACTIVE_ALIAS, messages=_QUESTION)
        async with http.delete(f"/keys/{made['id']}") as answer:
            if answer.status != 200:
                raise RuntimeError(f"DELETE /keys answered {answer.status}")

    async def _poll(self, http: aiohttp.ClientSession) -> None:
        for path in _POLLED:
            await self._get(http, path)

    async def _get(self, http: aiohttp.ClientSession, path: str) -> Any:
        async with http.get(path) as answer:
            content = await answer.read()
            if answer.status != 200:
                raise RuntimeError(f"GET {path} answered {answer.status}: {content[:200]!r}")
            return await answer.json() if answer.content_type == "application/json" else content

    async def _post(
        self, http: aiohttp.ClientSession, path: str, headers: dict[str, str] | None = None, **body: Any
    ) -> Any:
        async with http.post(path, json=body, headers=headers) as answer:
            content = await answer.read()
            if answer.status not in {200, 201}:
                raise RuntimeError(f"POST {path} answered {answer.status}: {content[:200]!r}")
            return await answer.json()
