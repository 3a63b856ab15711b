"""What translating costs: the native and Ollama routes against `/v1` of the same server: `python -m benchmarks.routes`.

All ask for the same greedy answers, in turn, in many short rounds; the figure is the median of the rounds' ratios. With
`--batch` also how fast a batch of OpenAI's runs against 64 interactive clients on `/v1`.
"""

import argparse
import asyncio
import io
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import aiohttp
import httpx

from benchmarks.load import Load, chat_load
from benchmarks.processes import MODEL_ID, stepserve
from demo.addition import Addition, split

PROMPT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


def _v1(addition: Addition) -> tuple[str, dict[str, Any]]:
    messages = [{"role": "user", "content": addition.question}]
    return "/v1/chat/completions", {"model": MODEL_ID, "temperature": 0, "messages": messages}


def _completions(addition: Addition) -> tuple[str, dict[str, Any]]:
    prompt = PROMPT.format(addition.question)
    return "/v1/completions", {"model": MODEL_ID, "temperature": 0, "max_tokens": 8, "prompt": prompt}


def _chat(addition: Addition) -> tuple[str, dict[str, Any]]:
    return "/chat", _v1(addition)[1]


def _generate(addition: Addition) -> tuple[str, dict[str, Any]]:
    return "/generate", {
        "temperature": 0,
        "max_tokens": 8,
        "prompt": PROMPT.format(addition.question),
        "raw": True,
    }


def _ollama(addition: Addition) -> tuple[str, dict[str, Any]]:
    body = _v1(addition)[1]
    return "/api/chat", {
        "model": MODEL_ID,
        "messages": body["messages"],
        "options": {"temperature": 0},
        "stream": False,
    }


ROUTES: dict[
    str, tuple[Callable[[Addition], tuple[str, dict[str, Any]]], Callable[[Addition], tuple[str, dict[str, Any]]]]
]
ROUTES = {
    "/generate": (_generate, _completions),
    "/chat": (_chat, _v1),
    "/api/chat": (_ollama, _v1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--requests", type=int, default=150, help="requests a round")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--batch", type=int, default=2000, help="requests of the batch; 0: none")
    args = parser.parse_args()
    with stepserve() as url:
        print(f"{args.clients} clients      route req/s   its /v1 req/s   ratio", flush=True)
        for name, (ours, theirs) in ROUTES.items():
            ratios, loads = [], []
            for number in range(args.rounds + 1):
                pair = [
                    asyncio.run(_load(url, ask, args.clients, args.requests))
                    for ask in (ours, theirs)[:: _turn(number)]
                ]
                mine, bare = pair[:: _turn(number)]
                if number:  # the first round warms up
                    ratios.append(mine.requests_per_s / bare.requests_per_s)
                    loads.append((mine, bare))
            sides = [Load.together([pair[side] for pair in loads]).requests_per_s for side in (0, 1)]
            print(f"{name:16s} {sides[0]:12.1f}   {sides[1]:13.1f}   {median(ratios):5.3f}", flush=True)
        if args.batch:
            _batch(url, args.batch)


def _turn(number: int) -> int:
    return 1 if number % 2 else -1


async def _load(url: str, ask: Callable[[Addition], tuple[str, dict[str, Any]]], clients: int, requests: int) -> Load:
    _, held_out = split()
    work = iter(range(requests))
    latencies: list[float] = []

    async def client(session: aiohttp.ClientSession) -> None:
        for number in work:
            path, body = ask(held_out[number % len(held_out)])
            started = time.perf_counter()
            async with session.post(url + path, json=body) as response:
                answer = await response.read()
            latencies.append(time.perf_counter() - started)
            if response.status != 200:
                raise RuntimeError(f"{path} was answered with {answer!r}")

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        started = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(clients)))
        return Load(time.perf_counter() - started, sorted(latencies))


def _batch(url: str, requests: int) -> None:
    _, held_out = split()
    lines = []
    for number in range(requests):
        path, body = _v1(held_out[number % len(held_out)])
        lines.append(json.dumps({"custom_id": str(number), "method": "POST", "url": path, "body": body}))
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
        interactive = chat_load(url, MODEL_ID, 64, requests // 2)
        form = {"file": ("in.jsonl", io.BytesIO("\n".join(lines).encode()))}
        file_id = http.post("/v1/files", files=form, data={"purpose": "batch"}).json()["id"]
        asked = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        started = time.perf_counter()
        batch = http.post("/v1/batches", json=asked).json()
        beside = chat_load(url, MODEL_ID, 1, 40)
        while batch["status"] not in ("completed", "failed"):
            time.sleep(0.05)
            batch = http.get(f"/v1/batches/{batch['id']}").json()
        seconds = time.perf_counter() - started
        alone = chat_load(url, MODEL_ID, 1, 40)
    rate = requests / seconds
    print(f"batch: {rate:.1f} req/s, {rate / interactive.requests_per_s:.3f} of 64 clients on /v1")
    latencies = beside.latency_ms(0.5), alone.latency_ms(0.5)
    print(f"one interactive client, p50: {latencies[0]:.1f} ms beside the batch, {latencies[1]:.1f} ms alone")


if __name__ == "__main__":
    main()
