"""The texts of a request, and what must not be asked for while texts are filtered. Pure."""

from collections.abc import Callable
from typing import Any

import msgspec

from gateway.errors import InvalidField
from gateway.request.body import RequestBody

_SHOWN_TO_MODELS = (
    "messages", "prompt", "suffix", "input", "system", "instructions", "tools", "documents", "chat_template",
    "chat_template_kwargs", "previous_input_messages",
)  # fmt: skip
# Their values are names, or what no pattern is meant for: they are told from texts by the key that they stand at.
_NOT_TEXT = frozenset({
    "role", "type", "id", "call_id", "tool_call_id", "tool_use_id", "name", "url", "image_url", "data", "media_type",
    "status", "detail", "file_id", "format",
})  # fmt: skip
# Below these every key is the client's own, and says nothing of its value.
_ALL_TEXT = frozenset({"input", "arguments", "documents", "chat_template_kwargs"})
_BESIDE_TEXT = (
    "logprobs", "top_logprobs", "prompt_logprobs", "logprob_token_ids", "return_token_ids",
    "return_tokens_as_token_ids", "enable_response_messages",
)  # fmt: skip
_LOGPROBS = "message.output_text.logprobs"


def check_answers(body: RequestBody) -> None:
    """Tokens beside a filtered text would say what the text does not. Raises InvalidField."""
    for name in _BESIDE_TEXT:
        asked = body.value(name)
        if asked is not None and asked is not False and (asked != 0 or name != "top_logprobs"):
            raise InvalidField(name, "cannot be given while answers are filtered (setting filters)")
    include = body.value("include")
    if isinstance(include, list) and _LOGPROBS in include:
        raise InvalidField("include", f"{_LOGPROBS} cannot be given while answers are filtered (setting filters)")


def choices_of(body: RequestBody) -> int:
    """How many choices its answer has, of those APIs that give more than one."""
    n, prompt = body.value("n"), body.value("prompt")
    prompts = len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
    return prompts * n if isinstance(n, int) and n > 0 else prompts


def filtered(body: RequestBody, change: Callable[[str], str]) -> bytes | None:
    """The body with every text changed; None when that changes nothing.

    Raises InvalidField for a prompt that is not text, or a member that cannot be read; and what `change` raises.
    """
    asked: dict[str, Any] = {}
    for name in _SHOWN_TO_MODELS:
        given = body.value(name)
        if given is None:
            if body.text_of(name) not in {b"", b"null"}:  # vLLM might read what we cannot look into
                raise InvalidField(name, "holds what is not JSON of UTF-8 with finite numbers")
            continue
        if name == "prompt" and _is_tokens(given):
            raise InvalidField("prompt", "must be text while requests are filtered (setting filters)")
        changed = _all_changed(given, change) if name in _ALL_TEXT - {"input"} else _changed(given, change)
        if changed != given:
            asked[name] = changed
    if body.value("prompt_embeds") is not None:
        raise InvalidField("prompt_embeds", "must be text while requests are filtered (setting filters)")
    return msgspec.json.encode({**body.members, **asked}) if asked else None


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_changed(each, change) for each in value]
    if isinstance(value, dict):
        return {key: _member_changed(key, each, change) for key, each in value.items()}
    return value


def _member_changed(key: str, value: Any, change: Callable[[str], str]) -> Any:
    if key in _ALL_TEXT:
        return _all_changed(value, change)
    return value if key in _NOT_TEXT and isinstance(value, str) else _changed(value, change)


def _all_changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {key: _all_changed(each, change) for key, each in value.items()}
    if isinstance(value, list):
        return [_all_changed(each, change) for each in value]
    return change(value) if isinstance(value, str) else value


def _is_tokens(prompt: object) -> bool:
    if not isinstance(prompt, list):
        return False
    return any(isinstance(each, int) or (isinstance(each, list) and each) for each in prompt)
