"""The texts of answers, whole and streamed, in the three envelopes that vLLM answers in."""

from collections.abc import Callable
from typing import Any, Literal, Protocol

import msgspec

from gateway.dialects.events import DONE
from gateway.filtering.filter import Blocked, TextFilter, whole
from gateway.request.body import decoded

Json = dict[str, Any]
NewFilter = Callable[[], TextFilter]
Shape = Literal["choices", "responses", "messages"]

SHAPES: dict[str, Shape] = {
    "/v1/chat/completions": "choices",
    "/v1/completions": "choices",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
}
_TEXTS = frozenset({"content", "text", "reasoning", "reasoning_content", "refusal", "arguments", "thinking", "input"})
_DELTAS = ("reasoning", "reasoning_content", "content", "text", "refusal")


class AnswerFilter(Protocol):
    """A Rewriter of one answer (gateway.http.rewriting). `over`: nothing more may follow."""

    over: bool

    def whole(self, body: bytes) -> bytes: ...

    def event(self, block: bytes) -> bytes: ...


def answer_filter(shape: Shape, new: NewFilter, choices: int = 1) -> AnswerFilter:
    """`choices`: how many the answer has, where its shape has any."""
    if shape == "choices":
        return _Choices(new, choices)
    return {"responses": _Responses, "messages": _Messages}[shape](new)


class _Filtering:
    def __init__(self, new: NewFilter) -> None:
        self.over = False
        self._new = new
        self._open: dict[tuple[object, ...], TextFilter] = {}

    def whole(self, body: bytes) -> bytes:
        answer = decoded(body)
        return msgspec.json.encode(self._whole(answer)) if isinstance(answer, dict) else body

    def event(self, block: bytes) -> bytes:
        named, data = _parts(block)
        if data in {b"", DONE}:
            return block + b"\n\n"
        event = decoded(data)
        if not isinstance(event, dict):
            return b""  # nobody can say what it holds
        if event.get("error"):
            return block + b"\n\n"
        try:
            events = self._events(event)
        except Blocked:
            self.over = True
            return self._blocked()
        return b"".join(_encoded(each, named=named) for each in events)

    def _whole(self, answer: Json) -> Json:
        raise NotImplementedError

    def _events(self, event: Json) -> list[Json]:
        """What is sent in the place of an event. Raises Blocked."""
        raise NotImplementedError

    def _blocked(self) -> bytes:
        """The end of a stream that may not go on."""
        raise NotImplementedError

    def _feed(self, key: tuple[object, ...], text: str) -> str:
        if key not in self._open:
            self._open[key] = self._new()
        return self._open[key].feed(text)

    def _end(self, key: tuple[object, ...]) -> str:
        found = self._open.pop(key, None)
        return found.end() if found is not None else ""

    def _changed(self, value: Any, *, is_text: bool = False) -> Any:
        """Every text in a part of an answer, filtered as one that is whole. Raises Blocked."""
        if isinstance(value, str):
            return whole(self._new(), value) if is_text else value
        if isinstance(value, list):
            return [self._changed(each, is_text=is_text) for each in value]
        if isinstance(value, dict):
            return {key: self._changed(each, is_text=key in _TEXTS or key == "summary") for key, each in value.items()}
        return value


class _Choices(_Filtering):
    """Chat and text completions. Of `most` choices each is blocked by itself; the last one's block ends the stream."""

    def __init__(self, new: NewFilter, most: int) -> None:
        super().__init__(new)
        self._most = most
        self._ended: set[object] = set()
        self._cut: set[object] = set()

    def event(self, block: bytes) -> bytes:
        out = super().event(block)
        return out + b"data: " + DONE + b"\n\n" if self.over else out

    def _whole(self, answer: Json) -> Json:
        for choice in answer.get("choices") or ():
            try:
                choice |= {key: self._changed(choice[key], is_text=key == "text") for key in ("message", "text")
                           if key in choice}  # fmt: skip
            except Blocked:
                choice["finish_reason"] = "content_filter"
                if "message" in choice:
                    choice["message"] = {"role": "assistant", "content": ""}
                else:
                    choice["text"] = ""
        return answer

    def _events(self, event: Json) -> list[Json]:
        choices = event.get("choices") or ()
        kept = [self._kept(choice) for choice in choices if choice.get("index", 0) not in self._cut]
        if not choices:
            return [event]
        return [event | {"choices": kept}] if kept else []

    def _kept(self, choice: Json) -> Json:
        """What is sent in the place of a choice: its end, where it is blocked."""
        index = choice.get("index", 0)
        try:
            self._choice(choice)
        except Blocked:
            self._cut.add(index)
            self._open = {key: each for key, each in self._open.items() if key[0] != index}
            nothing: Json = {"delta": {}} if "delta" in choice else {"text": ""}
            choice = {"index": index, **nothing, "finish_reason": "content_filter"}
        if choice.get("finish_reason") is not None:
            self._ended.add(index)
            self.over = index in self._cut and len(self._ended) >= self._most
        return choice

    def _choice(self, choice: Json) -> None:
        index, held = choice.get("index", 0), choice
        if isinstance(choice.get("delta"), dict):
            held = choice["delta"]
        said = [name for name in _DELTAS if isinstance(held.get(name), str) and held[name]]
        for name in said:
            held[name] = self._feed((index, name), held[name])
        calls = held.get("tool_calls") or []
        for call in calls:
            function = call.get("function") or {}
            if isinstance(function.get("arguments"), str):
                function["arguments"] = self._feed((index, "call", call.get("index", 0)), function["arguments"])
        is_last = choice.get("finish_reason") is not None
        going = {("call", call.get("index", 0)) for call in calls} | {(name,) for name in said}
        # What is held of one part of an answer goes before the next part begins.
        for key in [key for key in self._open if key[0] == index and (is_last or (going and key[1:] not in going))]:
            if rest := self._end(key):
                self._put(held, key, rest)

    def _put(self, held: Json, key: tuple[object, ...], rest: str) -> None:
        if key[1] == "call":
            held["tool_calls"] = [*(held.get("tool_calls") or []), {"index": key[2], "function": {"arguments": rest}}]
        else:
            held[str(key[1])] = (held.get(str(key[1])) or "") + rest


class _Responses(_Filtering):
    def __init__(self, new: NewFilter) -> None:
        super().__init__(new)
        self._response: Json = {}
        self._number = 0
        self._deltas: dict[tuple[object, ...], Json] = {}

    def _whole(self, answer: Json) -> Json:
        try:
            return answer | {"output": self._changed(answer.get("output"))}
        except Blocked:
            return _incomplete(answer)

    def _events(self, event: Json) -> list[Json]:
        kind = str(event.get("type"))
        if isinstance(event.get("response"), dict):
            self._response = event["response"]
            event["response"] = self._response | {"output": self._changed(self._response.get("output"))}
            return self._numbered([event])
        if isinstance(event.get("delta"), str):
            key = _place(event, kind.removesuffix(".delta"))
            self._deltas[key] = event
            return self._numbered([event | {"delta": self._feed(key, event["delta"])}])
        before: list[Json] = []
        if kind.endswith(".done"):
            key = _place(event, kind.removesuffix(".done"))
            if rest := self._end(key):
                before.append(self._deltas[key] | {"delta": rest})
        changed = {name: self._changed(event[name], is_text=name in _TEXTS) for name in ("text", "arguments", "input",
                   "part", "item", "refusal") if name in event}  # fmt: skip
        return self._numbered([*before, event | changed])

    def _numbered(self, events: list[Json]) -> list[Json]:
        """In one row, whatever was put in between."""
        for event in events:
            event["sequence_number"] = self._number
            self._number += 1
        return events

    def _blocked(self) -> bytes:
        event = {"type": "response.incomplete", "response": _incomplete(self._response)}
        return _encoded(self._numbered([event])[0], named=True)


class _Messages(_Filtering):
    def __init__(self, new: NewFilter) -> None:
        super().__init__(new)
        self._deltas: dict[tuple[object, ...], Json] = {}

    def _whole(self, answer: Json) -> Json:
        try:
            return answer | {"content": [self._block(block) for block in answer.get("content") or ()]}
        except Blocked:
            return answer | {"content": [], "stop_reason": "refusal", "stop_sequence": None}

    def _block(self, block: Json) -> Json:
        if block.get("type") == "tool_use":
            return block | {"input": self._all(block.get("input"))}
        changed: Json = self._changed(block)
        return changed

    def _all(self, value: Any) -> Any:
        """Every text at any key: the arguments of a call."""
        if isinstance(value, dict):
            return {key: self._all(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self._all(each) for each in value]
        return whole(self._new(), value) if isinstance(value, str) else value

    def _events(self, event: Json) -> list[Json]:
        key = (event.get("index"),)
        kind = event.get("type")
        if kind == "content_block_stop":
            rest = self._end(key)
            return [self._with(key, rest), event] if rest else [event]
        if kind != "content_block_delta":
            return [event]
        name = _text_name(event["delta"])
        if name is None:
            return [event]
        self._deltas[key] = event
        return [self._with(key, self._feed(key, event["delta"][name]))]

    def _with(self, key: tuple[object, ...], text: str) -> Json:
        event = self._deltas[key]
        return event | {"delta": event["delta"] | {_text_name(event["delta"]): text}}

    def _blocked(self) -> bytes:
        ends: list[Json] = [{"type": "content_block_stop", "index": key[0]} for key in self._open]
        delta = {"stop_reason": "refusal", "stop_sequence": None}
        ends += [{"type": "message_delta", "delta": delta, "usage": {"output_tokens": 0}}, {"type": "message_stop"}]
        return b"".join(_encoded(each, named=True) for each in ends)


def _text_name(delta: Json) -> str | None:
    return next((name for name in ("text", "thinking", "partial_json") if isinstance(delta.get(name), str)), None)


def _place(event: Json, kind: str) -> tuple[object, ...]:
    return (kind, event.get("output_index"), event.get("content_index"), event.get("summary_index"))


def _incomplete(answer: Json) -> Json:
    return answer | {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}, "output": []}


def _parts(block: bytes) -> tuple[bool, bytes]:
    """Whether an event has a name, and its data, as any host may write them."""
    named, data = False, list[bytes]()
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        named |= field == b"event"
        if field == b"data":
            data.append(value.removeprefix(b" "))
    return named, b"\n".join(data)


def _encoded(event: Json, *, named: bool) -> bytes:
    head = f"event: {event['type']}\n".encode() if named and "type" in event else b""
    return head + b"data: " + msgspec.json.encode(event) + b"\n\n"
