"""Ollama's answers, made of `/v1`'s. Durations are nanoseconds."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from gateway.dialects.call import Json, Timing
from gateway.dialects.thinking import Parts, ThinkingSplit, split

Shape = Callable[[Parts, list[Json] | None], Json]
"""Where a route puts what was said: thinking and answer, and tool calls."""


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def in_message(parts: Parts, tool_calls: list[Json] | None) -> Json:
    message: Json = {"role": "assistant", "content": parts.content}
    if parts.reasoning:
        message["thinking"] = parts.reasoning
    if tool_calls:
        message["tool_calls"] = tool_calls
    return {"message": message}


def in_response(parts: Parts, _tool_calls: list[Json] | None) -> Json:
    return {"response": parts.content} | ({"thinking": parts.reasoning} if parts.reasoning else {})


def figures(finish_reason: str | None, usage: Json, timing: Timing) -> Json:
    """The end of an answer. Loading is never part of a request here, so its duration is 0.

    Of an answer that came at once, reading the prompt is part of `eval_duration`.
    """
    generating_ns, total_ns = timing.generating_ns, timing.total_ns
    return {
        "done_reason": "length" if finish_reason == "length" else "stop",
        "total_duration": total_ns,
        "load_duration": 0,
        "prompt_eval_count": usage.get("prompt_tokens", 0),
        "prompt_eval_duration": 0 if timing.first_token_ns is None else total_ns - generating_ns,
        "eval_count": usage.get("completion_tokens", 0),
        "eval_duration": generating_ns,
    }


def whole_answer(answer: Json, model: str, timing: Timing, shape: Shape, *, thinks: bool = False) -> Json:
    choice = answer["choices"][0]
    message = choice.get("message") or {}
    text = choice.get("text") or message.get("content") or ""
    parts = Parts(message.get("reasoning") or "", text)
    if thinks and not parts.reasoning:
        parts = split(text, opened=(answer.get("prompt_text") or "").rstrip().endswith("<think>"))
    content = {
        "model": model,
        "created_at": now(),
        **shape(parts, [_tool_call(call["function"]) for call in message.get("tool_calls") or ()]),
        "done": True,
        **figures(choice.get("finish_reason"), answer["usage"], timing),
    }
    return content | _logprobs(choice)


def chat_answer(answer: Json, model: str, timing: Timing) -> Json:
    return whole_answer(answer, model, timing, in_message)


class Lines:
    """The NDJSON stream: a line a piece, and the last one with the figures."""

    content_type = b"application/x-ndjson"

    def __init__(self, model: str, timing: Timing, shape: Shape, *, thinks: bool) -> None:
        self._model = model
        self._timing = timing
        self._shape = shape
        self._thinks = thinks
        self._split: ThinkingSplit | None = None
        self._opened = False
        self._finish_reason: str | None = None
        self._usage: Json = {}
        self._calls: dict[int, Json] = {}

    def piece(self, chunk: Json) -> bytes:
        self._usage = chunk.get("usage") or self._usage
        if chunk.get("prompt_text"):
            self._opened = chunk["prompt_text"].rstrip().endswith("<think>")
        out = b""
        for choice in chunk.get("choices", ()):
            delta = choice.get("delta") or {}
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
            for call in delta.get("tool_calls") or ():
                self._collect(call)
            parts = self._parts(delta.get("reasoning") or "", choice.get("text") or delta.get("content") or "")
            if parts.reasoning or parts.content:
                out += self._line({**self._shape(parts, None), "done": False, **_logprobs(choice)})
        return out

    def end(self) -> bytes:
        out = b""
        rest = self._split.close() if self._split else Parts("", "")
        calls = [_tool_call(self._calls[index]) for index in sorted(self._calls)]
        if rest.reasoning or rest.content or calls:
            out = self._line({**self._shape(rest, calls), "done": False})
        last = {**self._shape(Parts("", ""), None), "done": True}
        return out + self._line(last | figures(self._finish_reason, self._usage, self._timing))

    def _parts(self, reasoning: str, text: str) -> Parts:
        if not self._thinks or reasoning or not text:
            return Parts(reasoning, text)
        if self._split is None:
            self._split = ThinkingSplit(opened=self._opened)
        return self._split.feed(text)

    def _collect(self, call: Json) -> None:
        function = self._calls.setdefault(call.get("index", 0), {"name": "", "arguments": ""})
        piece = call.get("function") or {}
        function["name"] += piece.get("name") or ""
        function["arguments"] += piece.get("arguments") or ""

    def _line(self, content: Json) -> bytes:
        return msgspec.json.encode({"model": self._model, "created_at": now(), **content}) + b"\n"


def _tool_call(function: Json) -> Json:
    """Ollama's arguments are an object; what is none is kept as text under `_text`."""
    try:
        arguments: Any = msgspec.json.decode(function.get("arguments") or "{}")
    except msgspec.DecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        arguments = {"_text": function.get("arguments")}
    return {"function": {"name": function["name"], "arguments": arguments}}


def _logprobs(choice: Json) -> Json:
    content = (choice.get("logprobs") or {}).get("content")
    if not content:
        return {}
    kept = ("token", "logprob")
    return {
        "logprobs": [
            {
                **{key: token[key] for key in kept},
                "top_logprobs": [{key: other[key] for key in kept} for other in token.get("top_logprobs") or ()],
            }
            for token in content
        ]
    }
