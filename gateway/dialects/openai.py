"""Requests of OpenAI's clients on vLLM's own routes: what vLLM would misread is put right."""

from typing import Any

import msgspec

from gateway.request.body import RequestBody

_KEPT = frozenset({"role", "content"})


def without_null_fields(body: RequestBody) -> bytes:
    """The body to hand on. A null field of a message is none, as at OpenAI: clients send answers back with all of their
    fields. vLLM refuses a `name` that is null.
    """
    if b"null" not in body.text_of("messages"):
        return body.raw
    messages = body.value("messages")
    if not isinstance(messages, list):
        return body.raw
    asked: dict[str, Any] = msgspec.json.decode(body.raw)
    asked["messages"] = [_without_nulls(message) for message in messages]
    return msgspec.json.encode(asked)


def _without_nulls(message: object) -> object:
    if not isinstance(message, dict):
        return message
    return {name: value for name, value in message.items() if value is not None or name in _KEPT}
