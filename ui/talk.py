"""A streamed chat with its times."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stepserve.client.client import Client
from stepserve.client.errors import StepserveError


class Talk:
    """Iterating gives the answer's pieces as they come; the rest is known when it has ended.

    `tokens` is what the server counted, None until it said so. Raises StepserveError while it is iterated, also for an
    error in the middle of the stream.
    """

    def __init__(self, server: Client, model: str, messages: Sequence[Mapping[str, str]], **sampling: Any) -> None:
        self._server = server
        self._body = {"model": model, "messages": list(messages), "stream": True, **sampling}
        self._body["stream_options"] = {"include_usage": True}
        self.text = ""
        self.model = model
        self.tokens: int | None = None
        self.first_s: float | None = None
        self.total_s = 0.0

    def __iter__(self) -> Iterator[str]:
        started = time.monotonic()
        for _, data in self._server.events("/v1/chat/completions", "POST", silence_s=600.0, json=self._body):
            self.total_s = time.monotonic() - started
            if data == "[DONE]":
                return
            piece = self._piece(json.loads(data))
            if piece:
                self.first_s = self.first_s or self.total_s
                self.text += piece
                yield piece

    def _piece(self, chunk: dict[str, Any]) -> str:
        if "error" in chunk:
            raise StepserveError(str(chunk["error"].get("message", chunk["error"])))
        self.model = chunk.get("model", self.model)
        if chunk.get("usage"):
            self.tokens = chunk["usage"].get("completion_tokens")
        choices = chunk.get("choices") or [{}]
        delta = choices[0].get("delta", {})
        return str(delta.get("content") or "")

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
