"""How likely a model holds a text that another one has answered with."""

import math
from typing import Any

from pydantic import ValidationError

from gateway.errors import GatewayError
from gateway.serving.router import Router
from stepserve.contract import BatchItem, BatchSampling, ChatMessage, Continuations, ModelRef, TextScore

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
_CHANGES_THE_PROMPT = frozenset({
    "add_generation_prompt", "chat_template", "chat_template_kwargs", "continue_final_message", "documents", "echo",
    "functions", "prompt_embeds", "reasoning_effort", "suffix", "tools",
})  # fmt: skip
_SAID_BESIDES = ("reasoning", "reasoning_content", "tool_calls", "function_call")


def answered_text(path: str, asked: dict[str, Any], answer: Any) -> Continuations | None:
    """The answer after its prompt; None: it is not one text, or batch work would render the prompt otherwise."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        return None
    if any(asked.get(name) for name in _CHANGES_THE_PROMPT):
        return None
    try:
        if path == CHAT:
            message = choices[0].get("message") or {}
            if any(message.get(name) for name in _SAID_BESIDES) or not message.get("content"):
                return None
            messages = [ChatMessage.model_validate(one) for one in asked["messages"]]
            return Continuations(messages=messages, texts=[message["content"]])
        text = choices[0].get("text")
        return Continuations(prompt=asked["prompt"], texts=[text]) if path == COMPLETIONS and text else None
    except (ValidationError, KeyError, TypeError):  # parts, token ids, several prompts
        return None


class Scorer:
    """Scores with what is loaded; it loads nothing."""

    def __init__(self, router: Router) -> None:
        self._router = router

    async def __call__(self, model: ModelRef, text: Continuations) -> TextScore | None:
        """Below interactive traffic. None: the model is not loaded, or its engine cannot score this."""
        slot = self._router.gate.slot
        if slot is None or slot.dead or slot.model.digest != model.digest:
            slot = self._router.beside(model)
        if slot is None:
            return None
        try:
            (output,) = await slot.batch([BatchItem(continuations=text, generate=False)], BatchSampling())
        except GatewayError:
            return None
        score = output.continuations[0] if output.continuations else None
        if score is None or score.logprob is None or not math.isfinite(score.logprob) or not score.tokens:
            return None
        return score
