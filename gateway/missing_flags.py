"""What a client is told that asks for something vLLM has a command line flag for: which setting of ours that is."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class MissingFlag:
    """`flag` is how vLLM's refusal names it; `advice` goes in the place of that refusal."""

    flag: str
    param: str
    code: str
    advice: str


_FLAGS: Final = (
    MissingFlag(
        "--tool-call-parser",
        "tools",
        "no_tool_call_parser",
        "tools: no tool call parser is set, so calls could not be told from text (setting"
        " INFERENCE_ENGINE__TOOL_CALL_PARSER, one of vLLM's, such as hermes); without `tools`, or with `tool_choice`"
        " `none`, the model answers in text.",
    ),
    MissingFlag(
        "--reasoning-parser",
        "thinking_token_budget",
        "no_reasoning_parser",
        "thinking_token_budget: no reasoning parser is set, so thinking could not be told from the answer (setting"
        " INFERENCE_ENGINE__REASONING_PARSER).",
    ),
    MissingFlag(
        "--trust-request-chat-template",
        "chat_template",
        "chat_template_refused",
        "chat_template: a request brings none here; register the model with `chat_template`.",
    ),
    MissingFlag(
        "--enable-prompt-embeds", "prompt_embeds", "prompt_embeds_refused", "prompt_embeds: none are taken here."
    ),
)


def in_our_words(message: str) -> MissingFlag | None:
    """None for a message that names no such flag."""
    return next((each for each in _FLAGS if each.flag in message), None)
