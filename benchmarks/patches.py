"""What changes to vLLM's front end save, in processor time and without an engine: `python -m benchmarks.patches`.

A chat request through vLLM's routes and layers to a function that answers at once, with and without `fewer_layers` and
`short_routes`; and 64 short prompts in the tokenizer, one by one and together (`fewer_lookups`). The least of many
rounds, which take turns. Then the ranks of tokens in a process that has counted none yet, and of a large vocabulary
(`no_compiler`).
"""

import asyncio
import json
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from fastapi import FastAPI
from rich.console import Console
from rich.table import Table
from starlette.middleware.cors import CORSMiddleware
from transformers import AutoTokenizer
from vllm.entrypoints.openai.chat_completion.api_router import router
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionResponse
from vllm.entrypoints.serve.elastic_ep.middleware import ScalingMiddleware
from vllm.entrypoints.serve.instrumentator.metrics import attach_router
from vllm.v1.sample.ops.logprobs import batched_count_greater_than

from benchmarks.processes import CHECKPOINT
from gateway.engine.patches.fewer_layers import leave_layers_out
from gateway.engine.patches.no_compiler import at_least
from gateway.engine.patches.short_routes import shorten
from gateway.http.asgi import Message

ROUNDS, REQUESTS, PROMPTS = 12, 300, 64
BODY = json.dumps(
    {"model": "active", "messages": [{"role": "user", "content": "17+25="}], "max_tokens": 8, "temperature": 0}
).encode()
SCOPE: dict[str, Any] = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "POST",
    "scheme": "http",
    "path": "/v1/chat/completions",
    "raw_path": b"/v1/chat/completions",
    "root_path": "",
    "query_string": b"",
    "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())],
    "client": ("127.0.0.1", 1),
    "server": ("127.0.0.1", 8765),
}
USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
ANSWER = ChatCompletionResponse(model="m", choices=[], usage=USAGE)


class _Serving:
    async def create_chat_completion(self, *_: Any) -> ChatCompletionResponse:
        return ANSWER


def app_of(*changes: Callable[[FastAPI], None]) -> FastAPI:
    """As vLLM's `build_app` puts them together, as far as a chat request passes them."""
    app = FastAPI(openapi_url=None)
    app.include_router(router)
    attach_router(app)
    app.add_middleware(CORSMiddleware, allow_origins=[])
    app.add_middleware(ScalingMiddleware)
    app.state.openai_serving_chat = _Serving()
    app.state.enable_server_load_tracking = False
    app.state.args = SimpleNamespace()
    for change in changes:
        change(app)
    return app


async def ask(app: FastAPI) -> int:
    """The status of one request's answer."""
    statuses: list[int] = []
    left = [{"type": "http.request", "body": BODY, "more_body": False}]

    async def receive() -> Message:
        if left:
            return left.pop()
        await asyncio.Event().wait()
        raise AssertionError("nobody disconnects")

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(SCOPE | {"state": {}}, receive, send)
    return statuses[0]


async def routes() -> dict[str, float]:
    """µs a request."""
    apps = {
        "vLLM's": app_of(),
        "fewer_layers": app_of(leave_layers_out),
        "short_routes": app_of(shorten),
        "both": app_of(leave_layers_out, shorten),
    }
    best = dict.fromkeys(apps, float("inf"))
    for app in apps.values():
        assert await ask(app) == 200
    for _ in range(ROUNDS):
        for name, app in apps.items():
            started = time.process_time()
            for _ in range(REQUESTS):
                await ask(app)
            best[name] = min(best[name], (time.process_time() - started) / REQUESTS * 1e6)
    return best


def tokenizing(checkpoint: str) -> dict[str, float]:
    """µs a prompt."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    texts = [
        f"<|im_start|>user\n{number}+{number + 7}=<|im_end|>\n<|im_start|>assistant\n" for number in range(PROMPTS)
    ]
    ways: dict[str, Callable[[], Any]] = {
        "vLLM's": lambda: [tokenizer(text) for text in texts],
        "fewer_lookups": lambda: tokenizer(texts),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started = time.process_time()
            way()
            best[name] = min(best[name], (time.process_time() - started) / PROMPTS * 1e6)
    return best


def ranks(*, first: bool) -> dict[str, float]:
    """µs a call: the first one of this process, for 16 tokens of the demo's vocabulary, or the least of many, for 64 of
    151,936.
    """
    rows = torch.randn(16, 259) if first else torch.randn(64, 151_936)
    values = rows[:, :1].clone()
    best = {}
    for name, count in (("vLLM's", batched_count_greater_than), ("no_compiler", at_least)):
        taken = []
        for _ in range(1 if first else ROUNDS):
            started = time.process_time()
            count(rows, values)
            taken.append((time.process_time() - started) * 1e6)
        best[name] = min(taken)
    return best


def main() -> None:
    table = Table("what", "patch", "µs of processor time")
    for what, measured in (
        ("a chat request", asyncio.run(routes())),
        ("a prompt", tokenizing(str(CHECKPOINT))),
        ("the first ranks of tokens", ranks(first=True)),
        ("ranks of 64 tokens", ranks(first=False)),
    ):
        for name, microseconds in measured.items():
            table.add_row(what, name, f"{microseconds:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
