"""What a model says, as it comes: a chat with its times and all that it may have besides text, and a solution."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stepserve.client.client import Client
from stepserve.client.errors import StepserveError


class Talk:
    """Iterating tells that more has come; what has come so far is in `text`, `thought`, `calls` and `likely`.

    `calls`: the tools that the model wants called, as `{"name", "arguments"}`. `likely`: each token of the answer with
    its log-probability, where they were asked for. `tokens` is what the server counted, None until it said so. Raises
    StepserveError while it is iterated, also for an error in the middle of the stream.
    """

    def __init__(self, server: Client, model: str, messages: Sequence[Mapping[str, Any]], **more: Any) -> None:
        self._server = server
        self._body = {"model": model, "messages": list(messages), "stream": True, **more}
        self._body["stream_options"] = {"include_usage": True}
        self.text = ""
        self.thought = ""
        self.calls: list[dict[str, str]] = []
        self.likely: list[tuple[str, float]] = []
        self.model = model
        self.tokens: int | None = None
        self.first_s: float | None = None
        self.total_s = 0.0

    def __iter__(self) -> Iterator[None]:
        started = time.monotonic()
        for _, data in self._server.events("/v1/chat/completions", "POST", silence_s=600.0, json=self._body):
            self.total_s = time.monotonic() - started
            if data == "[DONE]":
                return
            if self._take(json.loads(data)):
                self.first_s = self.first_s or self.total_s
                yield

    def _take(self, chunk: dict[str, Any]) -> bool:
        """Whether there is something new to be shown."""
        _check(chunk)
        self.model = chunk.get("model", self.model)
        if chunk.get("usage"):
            self.tokens = chunk["usage"].get("completion_tokens")
        choice = (chunk.get("choices") or [{}])[0]
        delta = choice.get("delta") or {}
        said = str(delta.get("content") or "")
        thought = str(delta.get("reasoning_content") or delta.get("reasoning") or "")
        self.text += said
        self.thought += thought
        for call in delta.get("tool_calls") or []:
            self._take_call(call)
        logprobs = (choice.get("logprobs") or {}).get("content") or []
        self.likely += [(str(one["token"]), float(one["logprob"])) for one in logprobs]
        return bool(said or thought or delta.get("tool_calls"))

    def _take_call(self, piece: Mapping[str, Any]) -> None:
        """A call comes in pieces: its name first, then its arguments."""
        index = int(piece.get("index", len(self.calls)))
        while len(self.calls) <= index:
            self.calls.append({"name": "", "arguments": ""})
        function = piece.get("function") or {}
        for field in ("name", "arguments"):
            self.calls[index][field] += str(function.get(field) or "")

    @property
    def summary(self) -> str:
        parts = [f"{self.total_s:.2f} s"]
        if self.first_s is not None:
            parts.append(f"first token after {self.first_s:.2f} s")
        if self.tokens is not None:
            parts.append(f"{self.tokens} tokens")
            if self.total_s > 0:
                parts.append(f"{self.tokens / self.total_s:.0f} tokens/s")
        return " · ".join(parts)


class Solution:
    """Iterating tells that more has come; what has come is in `text`. `result` is the last event, None before it.

    `route`: /solve/math or /solve/coding. Raises StepserveError while it is iterated.
    """

    def __init__(self, server: Client, route: str, body: Mapping[str, Any]) -> None:
        self._server = server
        self._route = route
        self._body = {**body, "stream": True}
        self.text = ""
        self.result: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[None]:
        for _, data in self._server.events(self._route, "POST", silence_s=600.0, json=self._body):
            chunk = json.loads(data)
            _check(chunk)
            if chunk["done"]:
                self.result = chunk
                return
            delta = chunk["delta"]
            self.text += str(delta.get("reasoning_content") or "") + str(delta.get("content") or "")
            yield


def _check(chunk: Mapping[str, Any]) -> None:
    """Raises StepserveError for an error in the middle of a stream."""
    if error := chunk.get("error"):
        raise StepserveError(str(error.get("message", error) if isinstance(error, Mapping) else error))
