"""A server for the pages: the real gateway and control on a real port, over an engine that adds up."""

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from control.routes import data_gen, datasets, evals
from datagen.kind import DataGenKind
from datagen.pipelines.preview import Previews
from evals.dataset_store import FileDatasetStore
from evals.kind import EvalKind
from evals.reports import EvalReports
from gateway.http.asgi import Receive, Scope, Send
from stepserve.contract import BatchItem, BatchOutput, BatchSampling
from stepserve.jobs.ports import JobKind
from stepserve.settings import Settings
from tests.integration.control_plane import settings_of
from tests.integration.full_stack import MODEL, FullStack, full_stack
from tests.ui.in_thread import in_thread
from tests.unit.control.checkpoint_files import write_checkpoint
from tests.unit.gateway.fakes import FakeEngine

EARLY = "early"
LINES = "".join(json.dumps({"question": f"What is {a}+{a + 1}?", "answer": 2 * a + 1}) + "\n" for a in range(10, 22))
ECHO = "Say: "
THINK = "Think: "
ENDLESS = "What is the last digit of pi?"
FAILING = "What is 1/0?"
LONG = "Write {count} pieces of {length}."
_SUM = re.compile(r"(\d+)\+(\d+)")
_LONG = re.compile(r"Write (\d+) pieces of (\d+)\.")


class AddingEngine(FakeEngine):
    """Knows sums, repeats what follows ECHO, never answers ENDLESS, writes what LONG asks for; as `early` it is wrong
    where the first summand is even.
    """

    def said(self, question: str) -> str:
        if question.startswith(ECHO):
            return question.removeprefix(ECHO)
        found = _SUM.search(question)
        if found is None:
            return "I add."
        a, b = int(found[1]), int(found[2])
        return str(a + b + (1 if self.ref.id == EARLY and a % 2 == 0 else 0))

    async def batch(self, items: Sequence[BatchItem], sampling: BatchSampling) -> list[BatchOutput]:
        if any(ENDLESS in str(item.messages) for item in items):
            await asyncio.Event().wait()
        asked = [item.messages[-1].content if item.messages else str(item.prompt) for item in items]
        if any(FAILING in one for one in asked):
            return [BatchOutput(error="the engine cannot divide by zero") for _ in items]
        return [
            BatchOutput(text=self.said(one), finish_reason="stop", prompt_tokens=9, completion_tokens=2)
            for one in asked
        ]

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = json.loads((await receive()).get("body", b""))
        said = self.said(body["messages"][-1]["content"])
        usage = {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}
        head: dict[str, Any] = {"id": "chatcmpl-1", "created": 1, "model": self.ref.id}
        if not body.get("stream"):
            message = {"role": "assistant", "content": said}
            whole = head | {
                "object": "chat.completion",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": usage,
            }
            await _answer(send, b"application/json", json.dumps(whole).encode())
            return
        chunks = [_chunk(delta, letter) for delta, letter in _deltas(body, said)]
        chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, {"choices": [], "usage": usage}]
        kind = {"object": "chat.completion.chunk"}
        events = [f"data: {json.dumps(head | kind | chunk)}\n\n" for chunk in chunks]
        await _answer(send, b"text/event-stream; charset=utf-8", "".join([*events, "data: [DONE]\n\n"]).encode())


def _deltas(body: dict[str, Any], said: str) -> list[tuple[dict[str, Any], str | None]]:
    """What is streamed, with the token whose log-probability comes along."""
    if body.get("tools"):
        name = body["tools"][0]["function"]["name"]
        pieces = ({"name": name, "arguments": '{"a": '}, {"arguments": "1}"})
        return [({"tool_calls": [{"index": 0, "function": piece}]}, None) for piece in pieces]
    if found := _LONG.search(body["messages"][-1]["content"]):
        count, length = map(int, found.groups())
        return [({"content": f"{number:x<{length}}"}, None) for number in range(count)]
    thought = [({"reasoning_content": "Hm. "}, None)] if THINK in body["messages"][-1]["content"] else []
    return [*thought, *(({"content": letter}, letter if body.get("logprobs") else None) for letter in said)]


def _chunk(delta: dict[str, Any], token: str | None) -> dict[str, Any]:
    """The first letter of an answer is likely, others are not."""
    logprobs = None if token is None else {"content": [{"token": token, "logprob": -0.01 if token == "4" else -3.0}]}
    return {"choices": [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": None}]}


async def _answer(send: Send, content_type: bytes, body: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", content_type)]})
    await send({"type": "http.response.body", "body": body})


@dataclass(frozen=True, slots=True)
class UiServer:
    """`http` asks the public port."""

    url: str
    settings: Settings
    http: httpx.Client

    def register(self, model_id: str, step: int) -> None:
        write_checkpoint(self.settings.layout.models / model_id, step)
        body = {"id": model_id, "source": "test", "step": step}
        self.http.post("/models/register", json=body).raise_for_status()

    def activate(self, model_id: str) -> None:
        self.http.post("/models/set_active", json={"id": model_id}).raise_for_status()

    def done(self, route: str, body: dict[str, Any]) -> str:
        """Makes a job and waits for its end."""
        made = self.http.post(route, json=body)
        assert made.is_success, made.text
        job_id = str(made.json()["job_id"])
        with self.http.stream("GET", f"/jobs/{job_id}/events") as events:  # ends with the job
            text = "".join(events.iter_text())
        assert '"status":"done"' in text, text
        return job_id

    def evaluate(self, model_id: str) -> str:
        self.activate(model_id)
        return self.done("/eval/jobs", {"model_id": model_id, "name": "sums", "dataset_ref": "sums.jsonl"})


@contextmanager
def ui_server(base: Path, **changes: Any) -> Iterator[UiServer]:
    settings = settings_of(base)
    routes = [
        datasets.router_of(FileDatasetStore()),
        evals.router_of(EvalReports()),
        data_gen.previews_router(Previews(settings.layout)),
    ]
    kinds: list[JobKind] = [EvalKind(), DataGenKind(settings.layout)]

    def serve() -> AbstractAsyncContextManager[FullStack]:
        return full_stack(base, make_engine=AddingEngine, kinds=kinds, more_routes=routes, **changes)

    with (
        in_thread("ui_server", serve) as running,
        httpx.Client(base_url=running.it.url, timeout=240, trust_env=False) as http,
    ):
        yield UiServer(running.it.url, running.it.settings, http)


__all__ = ["EARLY", "LINES", "MODEL", "THINK", "UiServer", "ui_server"]
