"""Items of responses and conversations: as they are kept and shown, and as vLLM takes them for input. Pure."""

import secrets
from collections.abc import Sequence

import msgspec

from stepserve.stored_responses import Item

ROW_BYTES = 512  # of a row beside its JSON, so that empty ones are bounded too
_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}
_OF_THE_MODEL = frozenset({"reasoning", "function_call", "custom_tool_call"})


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(16)}"


def size_of(content: object) -> int:
    return len(msgspec.json.encode(content)) + ROW_BYTES


def as_kept(given: Item) -> Item:
    """An item that a client sent, with an id of ours and its content as a list of parts."""
    kind = given.get("type") or "message"
    kept = {"id": new_id(_PREFIXES.get(kind, "item")), **{key: each for key, each in given.items() if key != "id"}}
    kept["type"] = kind
    if kind == "message":
        kept.setdefault("status", "completed")
        content = kept.get("content")
        if isinstance(content, str):
            kept["content"] = [_text_part(kept.get("role"), content)]
    return kept


def as_input(kept: Item) -> Item:
    """What vLLM is given: of what a client once said, no id and no status, which its types have for answers alone."""
    is_answer = kept.get("type") in _OF_THE_MODEL or (kept.get("type") == "message" and kept.get("role") == "assistant")
    if is_answer:
        return {key: each for key, each in kept.items() if each is not None}
    return {key: each for key, each in kept.items() if key not in {"id", "status"}}


def page_of(items: Sequence[Item], *, newest_first: bool, after: str | None, limit: int) -> tuple[list[Item], bool]:
    """Up to `limit` items behind the one of that id, and whether there are more. Items are given oldest first."""
    ordered = list(reversed(items)) if newest_first else list(items)
    if after is not None:
        place = next((number for number, item in enumerate(ordered) if item.get("id") == after), len(ordered))
        ordered = ordered[place + 1 :]
    return ordered[:limit], len(ordered) > limit


def _text_part(role: object, text: str) -> Item:
    if role == "assistant":
        return {"type": "output_text", "text": text, "annotations": []}
    return {"type": "input_text", "text": text}
