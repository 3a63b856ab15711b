"""The event stream of the native routes: pieces of text, and at the end one event with everything else."""

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from gateway.dialects.call import Json
from gateway.dialects.events import event
from gateway.dialects.thinking import Parts, ThinkingSplit


@dataclass(slots=True)
class Heard:
    """What a stream has said so far, of its first sequence."""

    text: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    model: str = ""
    usage: Json = field(default_factory=dict)


class Deltas:
    """`data: {"delta": {"content": …}, "done": false}` and at last `data: {"delta": {}, "done": true, …}`.

    `conclude` gives the further fields of the last event. A delta of another sequence than the first has an `index`.
    """

    content_type = b"text/event-stream; charset=utf-8"

    def __init__(self, conclude: Callable[[Heard], Json], *, thinking: bool = False) -> None:
        self.heard = Heard()
        self._conclude = conclude
        self._splits: dict[int, ThinkingSplit] | None = {} if thinking else None
        self._opened = False

    def piece(self, chunk: Json) -> bytes:
        self.heard.model = chunk.get("model") or self.heard.model
        self.heard.usage = chunk.get("usage") or self.heard.usage
        if chunk.get("prompt_text"):
            self._opened = chunk["prompt_text"].rstrip().endswith("<think>")
        return b"".join(self._choice(choice) for choice in chunk.get("choices", ()))

    def end(self) -> bytes:
        rest = b"".join(self._delta(index, split.close()) for index, split in (self._splits or {}).items())
        return rest + _event({"delta": {}, "done": True, **self._conclude(self.heard)})

    def _choice(self, choice: Json) -> bytes:
        index = choice.get("index", 0)
        delta = choice.get("delta") or {}
        text = choice.get("text") or delta.get("content") or ""
        parts = Parts(delta.get("reasoning") or "", text)
        if self._splits is not None and text and "text" not in choice:  # a plain completion is all answer
            split = self._splits.setdefault(index, ThinkingSplit(opened=self._opened and not parts.reasoning))
            found = split.feed(text)
            parts = Parts(parts.reasoning + found.reasoning, found.content)
        if index == 0 and choice.get("finish_reason"):
            self.heard.finish_reason = choice["finish_reason"]
        return self._delta(index, parts)

    def _delta(self, index: int, parts: Parts) -> bytes:
        if index == 0:
            self.heard.reasoning += parts.reasoning
            self.heard.text += parts.content
        delta: Json = {}
        if parts.reasoning:
            delta["reasoning_content"] = parts.reasoning
        if parts.content:
            delta["content"] = parts.content
        if not delta:
            return b""
        return _event({"delta": delta, "done": False} | ({"index": index} if index else {}))


def _event(content: Json) -> bytes:
    return event(msgspec.json.encode(content))
