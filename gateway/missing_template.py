"""What a client is told that asks a model without a chat template to chat."""

from typing import Final

CODE: Final = "no_chat_template"
_VLLMS_WORDS: Final = "default chat template is no longer allowed"  # of its ChatTemplateResolutionError


def in_our_words(message: str, model: str | None) -> str | None:
    """Instead of vLLM's refusal, which names neither the model nor a way out; None for any other message."""
    if _VLLMS_WORDS not in message:
        return None
    named = f"`{model}`" if model else "The model"
    return (
        f"{named} has no chat template, so a conversation cannot be made a prompt of. Register it with `chat_template`"
        " (a built-in one such as chatml or plain, or Jinja text) and `replace: true`, or set default_chat_template;"
        " /v1/completions and /generate take a plain prompt."
    )
