"""Requests of Anthropic's clients on vLLM's own routes: what vLLM would misread is put right, or refused by name."""

from typing import Any

import msgspec

from gateway.errors import InvalidField
from gateway.request.body import RequestBody

# Block types that vLLM refuses with a list of all others, or leaves out of a tool's result without a word.
_UNREAD = ("document", "search_result", "container_upload", "server_tool_use", "web_search_tool_result", "mcp_tool_use")
_UNREAD_BYTES = tuple(f'"{name}"'.encode() for name in _UNREAD)
_NO_TOOLS = (b"[]", b"null")


def readable_by_vllm(body: RequestBody) -> bytes:
    """The body to hand on. An empty list of tools is none, as at Anthropic, and its `tool_choice` falls with it.

    Raises InvalidField for a block of a type that no model is shown here.
    """
    if any(name in body.raw for name in _UNREAD_BYTES):
        _check_blocks(body)
    if b"".join(body.text_of("tools").split()) not in _NO_TOOLS:
        return body.raw
    asked: dict[str, Any] = msgspec.json.decode(body.raw)
    choice = asked.get("tool_choice")
    without = (
        {"tools", "tool_choice"} if isinstance(choice, dict) and choice.get("type") in ("auto", "none") else {"tools"}
    )
    return msgspec.json.encode({name: value for name, value in asked.items() if name not in without})


def _check_blocks(body: RequestBody) -> None:
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
