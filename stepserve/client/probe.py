"""A probe: what the model in memory says of a few prompts, so that the server can prove that it serves just that."""

import sys
from collections.abc import Sequence
from typing import Any

PROMPTS = (
    "12 + 34 = 46, and 99 - 1 = 98.",
    "The capital of France is Paris; the capital of Japan is Tokyo.",
    "def square(x):\n    return x * x\n",
    "Grüße aus Köln, 你好, привет!",
)
QUESTION = "What is 17+25?"
LONGEST_PROMPT_TOKENS = 64
FLOOR = -12.0  # a token that both find impossible says nothing
CONTINUED_TOKENS = 12


def probe_of(model: Any, tokenizer: Any, prompts: Sequence[str] = PROMPTS) -> dict[str, Any] | None:
    """For `register_model`'s `probe`: natural log-probabilities of each prompt's tokens, given those before them, and
    what the tokenizer and its chat template make of a few texts.

    Each prompt is continued by what the model finds likeliest: of such tokens it is sure, so they tell it from another
    model. Of a model in float32 also how far bfloat16 (autocast) moves it: `noise`. 14 forward passes a prompt on the
    model's own device, without gradients, the model's mode restored. None when no prompt has two tokens. For a model
    whose weights are all on this rank (not FSDP, not ZeRO-3). Raises whatever the model and the tokenizer raise.
    """
    torch = sys.modules["torch"]  # whoever has a model in memory has it loaded; a training box without one need not
    token_ids, logprobs, rounded = [], [], []
    rounds = getattr(model, "dtype", None) == torch.float32
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for prompt in prompts:
                tokens = tokenizer(prompt, return_tensors="pt")["input_ids"][:, :LONGEST_PROMPT_TOKENS].to(model.device)
                if tokens.shape[1] < 2:
                    continue
                for _ in range(CONTINUED_TOKENS):
                    likeliest = model(input_ids=tokens).logits[:, -1:].argmax(-1)
                    tokens = torch.cat([tokens, likeliest], dim=1)
                token_ids.append(tokens[0].tolist())
                logprobs.append(_said(model, tokens))
                if rounds:
                    with torch.autocast(model.device.type, dtype=torch.bfloat16):
                        rounded.append(_said(model, tokens))
    finally:
        model.train(was_training)
    if not token_ids:
        return None
    probe = {"prompt_token_ids": token_ids, "logprobs": logprobs, "encodings": encodings_of(tokenizer, prompts)}
    # Exactly alike are those of a trainer that puts every forward pass under autocast itself: that says nothing.
    return probe | {"noise": _apart(rounded, logprobs)} if rounded and rounded != logprobs else probe


def _said(model: Any, tokens: Any) -> list[float]:
    logits = model(input_ids=tokens).logits[0, :-1]
    said: list[float] = logits.float().log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0].tolist()
    return [min(0.0, round(value, 6)) for value in said]


def _apart(rounded: Sequence[Sequence[float]], logprobs: Sequence[Sequence[float]]) -> float:
    """As stepserve.difference.compare, which a training box does not have."""
    apart = [
        abs(max(mine, FLOOR) - max(theirs, FLOOR))
        for row, expected in zip(rounded, logprobs, strict=True)
        for mine, theirs in zip(row, expected, strict=True)
        if max(mine, theirs) > FLOOR
    ]
    return round(sum(apart) / len(apart), 6) if apart else 0.0


def encodings_of(tokenizer: Any, texts: Sequence[str]) -> list[dict[str, Any]]:
    """What the tokenizer makes of the texts, and of a question through its chat template unless that tells the time."""
    encodings: list[dict[str, Any]] = [
        {"text": text, "token_ids": list(tokenizer(text)["input_ids"])} for text in texts
    ]
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, str) and "strftime" not in template:
        messages = [{"role": "user", "content": QUESTION}]
        asked = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        token_ids = list(tokenizer(asked, add_special_tokens=False)["input_ids"])
        encodings.append({"messages": messages, "token_ids": token_ids})
    return [encoding for encoding in encodings if encoding["token_ids"]]
