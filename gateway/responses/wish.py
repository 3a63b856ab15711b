"""What a request on /v1/responses asks of what is kept. Pure."""

from dataclasses import dataclass
from typing import Any

import msgspec

from gateway.errors import InvalidField
from gateway.request.body import RequestBody
from stepserve.stored_responses import Item

_FIELDS = ("previous_response_id", "conversation")


@dataclass(frozen=True, slots=True)
class Wish:
    """`store`: the answer can be gone on from. At most one of the ids is set."""

    store: bool
    previous_id: str | None = None
    conversation_id: str | None = None

    @property
    def goes_on(self) -> bool:
        return self.previous_id is not None or self.conversation_id is not None


def wish_of(body: RequestBody, store: bool) -> Wish | None:
    """None: nothing is to be kept or looked up. `store` is the default. Raises InvalidField."""
    if body.value("background") is True:
        raise InvalidField("background", "answers are given at once here, or streamed; leave it out")
    said = body.value("store")
    if isinstance(said, bool):
        store = said
    previous, conversation = (body.value(name) for name in _FIELDS)
    if previous is not None and conversation is not None:
        raise InvalidField("conversation", "a request goes on from a response or a conversation, not from both")
    if isinstance(conversation, dict):
        conversation = conversation.get("id")
        if conversation is None:
            raise InvalidField("conversation", "must be a conversation's id, or an object with it as `id`")
    for name, given in zip(_FIELDS, (previous, conversation), strict=True):
        if given is not None and not (isinstance(given, str) and given and given.isprintable()):
            raise InvalidField(name, "must be an id")
    assert previous is None or isinstance(previous, str)
    assert conversation is None or isinstance(conversation, str)
    wish = Wish(store, previous, conversation)
    return wish if wish.store or wish.goes_on else None


def items_of(body: RequestBody) -> list[Item]:
    """What is new in the request; what cannot be read vLLM refuses."""
    given = body.value("input")
    if isinstance(given, str):
        return [{"type": "message", "role": "user", "content": given}]
    return [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []


def going_on(body: RequestBody, before: list[Item]) -> bytes:
    """The request with all that came before it in its `input`, for vLLM, which keeps nothing.

    An `input` that cannot be read stays as it is, for vLLM to refuse.
    """
    asked: dict[str, Any] = {name: raw for name, raw in body.members.items() if name not in _FIELDS}
    given = body.value("input")
    if isinstance(given, str):
        given = items_of(body)
    if isinstance(given, list):
        asked["input"] = [*before, *given]
    return msgspec.json.encode(asked)
