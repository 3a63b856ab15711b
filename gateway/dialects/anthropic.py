"""Requests of Anthropic's clients on vLLM's own routes: what vLLM would misread is put right, or refused by name."""

from typing import Any

import msgspec

from gateway.errors import InvalidField
from gateway.request.body import RequestBody

# Block types that vLLM refuses with a list of all others, or leaves out of a tool's result without a word.
_UNREAD = ("document", "search_result", "container_upload", "server_tool_use", "web_search_tool_result", "mcp_tool_use")
_UNREAD_BYTES = tuple(f'"{name}"'.encode() for name in _UNREAD)
_ASSISTANT = b'"assistant"'
_NO_TOOLS = (b"[]", b"null")


def readable_by_vllm(body: RequestBody) -> bytes:
    """The body to hand on. An empty list of tools is none, as at Anthropic, and its `tool_choice` falls with it. So is
    a last turn of the assistant's that says nothing, which vLLM would close and answer anew.

    Raises InvalidField for a block of a type that no model is shown here, and for a last turn that calls a tool.
    """
    if any(name in body.raw for name in _UNREAD_BYTES):
        _check_blocks(body)
    changed: dict[str, Any] = {}
    if _ASSISTANT in body.raw and _ends_with_nothing(messages := body.value("messages")):
        assert isinstance(messages, list)
        changed["messages"] = messages[:-1]
    no_tools = b"".join(body.text_of("tools").split()) in _NO_TOOLS
    if not changed and not no_tools:
        return body.raw
    asked: dict[str, Any] = msgspec.json.decode(body.raw) | changed
    if no_tools:
        del asked["tools"]
        choice = asked.get("tool_choice")
        if isinstance(choice, dict) and choice.get("type") in ("auto", "none"):
            del asked["tool_choice"]
    return msgspec.json.encode(asked)


def _ends_with_nothing(messages: object) -> bool:
    """Whether an empty turn of the assistant's comes last, after others. Raises InvalidField when it calls a tool."""
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(messages, list) or not isinstance(last, dict) or last.get("role") != "assistant":
        return False
    content = last.get("content")
    for number, block in enumerate(content if isinstance(content, list) else ()):
        if isinstance(block, dict) and block.get("type") == "tool_use":
            place = f"messages.{len(messages) - 1}.content.{number}"
            raise InvalidField(place, "a tool_use block needs its tool_result in a user message after it")
    is_empty = content == "" or (isinstance(content, list) and all(map(_is_empty_text, content)))
    return is_empty and len(messages) > 1


def _is_empty_text(block: object) -> bool:
    return isinstance(block, dict) and block.get("type") == "text" and block.get("text") == ""


def _check_blocks(body: RequestBody) -> None:
    _check_content(body.value("system"), "system")
    messages = body.value("messages")
    for place, message in enumerate(messages if isinstance(messages, list) else ()):
        if isinstance(message, dict):
            _check_content(message.get("content"), f"messages.{place}.content")


def _check_content(content: object, place: str) -> None:
    for number, block in enumerate(content if isinstance(content, list) else ()):
        if not isinstance(block, dict):
            continue
        kind = block.get("type")
        if kind in _UNREAD:
            raise InvalidField(
                f"{place}.{number}", f"blocks of type {kind} are not read here; send their text as a text block"
            )
        if kind == "tool_result":
            _check_content(block.get("content"), f"{place}.{number}.content")
