"""What a request asked and what was answered, as text, out of the envelopes of vLLM's routes. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway.dialects.events import DONE, EventData
from gateway.filtering.answers import Shape
from gateway.request.body import RequestBody, decoded
from gateway.responses.wish import items_of
from stepserve.traffic import Turn

Prompt = list[Turn] | str
Json = dict[str, Any]

_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
_TEXT_ROLES = frozenset({"system", "developer", "user", "assistant"})


class NotText(Exception):
    """It is not one answer in words to a request in words: images, tokens, calls of tools, several answers."""


class NoWords(NotText):
    """It is an answer in words, and has none."""


@dataclass(frozen=True, slots=True)
class Said:
    text: str
    finish_reason: str


def asked(shape: Shape, body: RequestBody) -> Prompt:
    """Raises NotText."""
    match shape:
        case "choices":
            prompt = body.value("prompt")
            if isinstance(prompt, str):
                return prompt
            return _turns([], body.value("messages"))
        case "responses":
            return _turns(_instructions(body.value("instructions")), items_of(body))
        case "messages":
            return _turns(_instructions(body.value("system")), body.value("messages"))


def answered(shape: Shape, content: bytes, *, is_stream: bool) -> Said:
    """Raises NotText."""
    if not is_stream:
        answer = decoded(content)
        if not isinstance(answer, dict):
            raise NotText
        return _WHOLE[shape](answer)
    events = []
    for data in EventData().feed(content + b"\n"):
        if data == DONE:
            continue
        event = decoded(data)
        if not isinstance(event, dict) or event.get("error"):
            raise NotText
        events.append(event)
    return _STREAMED[shape](events)


def _instructions(given: object) -> list[Turn]:
    return [] if given is None else [Turn(role="system", content=_text_of(given))]


def _turns(before: list[Turn], given: object) -> list[Turn]:
    turns = list(before)
    for each in given if isinstance(given, list) else []:
        if not isinstance(each, dict) or each.get("tool_calls") or each.get("type", "message") != "message":
            raise NotText
        if (role := each.get("role")) not in _TEXT_ROLES:
            raise NotText
        turns.append(Turn(role="system" if role == "developer" else role, content=_text_of(each.get("content"))))
    if len(turns) == len(before):
        raise NotText
    return turns


def _text_of(content: object) -> str:
    """Raises NotText for parts that are not text."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise NotText
    texts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") not in _TEXT_PARTS or not isinstance(part.get("text"), str):
            raise NotText
        texts.append(part["text"])
    return "".join(texts)


def _of_choice(answer: Json) -> Said:
    choices = answer.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise NotText
    choice = choices[0]
    message = choice.get("message", choice)
    if not isinstance(message, dict) or message.get("tool_calls"):
        raise NotText
    return _said(message.get("content", choice.get("text")), choice.get("finish_reason"))


def _of_choices(events: Sequence[Json]) -> Said:
    texts: list[str] = []
    finish_reason: object = None
    for event in events:
        for choice in event.get("choices") or ():
            delta = choice.get("delta", choice)
            if choice.get("index", 0) != 0 or delta.get("tool_calls"):
                raise NotText
            texts.append(delta.get("content") or delta.get("text") or "")
            finish_reason = choice.get("finish_reason") or finish_reason
    return _said("".join(texts), finish_reason)


def _of_response(answer: Json) -> Said:
    texts = []
    for item in answer.get("output") or ():
        if item.get("type") == "message":
            texts.append(_text_of(item.get("content")))
        elif item.get("type") != "reasoning":
            raise NotText
    if answer.get("status") not in {"completed", "incomplete"}:
        raise NotText
    return _said("".join(texts), "stop" if answer["status"] == "completed" else "length")


def _of_response_events(events: Sequence[Json]) -> Said:
    last = next((each["response"] for each in reversed(events) if isinstance(each.get("response"), dict)), None)
    if last is None:
        raise NotText
    return _of_response(last)


def _of_message(answer: Json) -> Said:
    blocks = [block for block in answer.get("content") or () if block.get("type") != "thinking"]
    return _said(_text_of(blocks), answer.get("stop_reason"))


def _of_message_events(events: Sequence[Json]) -> Said:
    texts: list[str] = []
    stop_reason: object = None
    for event in events:
        delta = event.get("delta") or {}
        if (event.get("content_block") or {}).get("type") == "tool_use":
            raise NotText
        if event.get("type") == "content_block_delta":
            texts.append(delta.get("text") or "")
        stop_reason = delta.get("stop_reason") or stop_reason
    return _said("".join(texts), stop_reason)


def _said(text: object, finish_reason: object) -> Said:
    if not isinstance(text, str):
        raise NotText
    if not text.strip():
        raise NoWords
    return Said(text, finish_reason if isinstance(finish_reason, str) else "")


_WHOLE = {"choices": _of_choice, "responses": _of_response, "messages": _of_message}
_STREAMED = {"choices": _of_choices, "responses": _of_response_events, "messages": _of_message_events}
