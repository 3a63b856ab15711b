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
LONGEST_PROMPT_TOKENS = 64
CONTINUED_TOKENS = 12


def probe_of(model: Any, tokenizer: Any, prompts: Sequence[str] = PROMPTS) -> dict[str, Any] | None:
    """For `register_model`'s `probe`: natural log-probabilities of each prompt's tokens, given those before them.

    Each prompt is continued by what the model finds likeliest: of such tokens it is sure, so they tell it from another
    model. 13 forward passes a prompt on the model's own device, without gradients, the model's mode restored. None when
    no prompt has two tokens. For a model whose weights are all on this rank (not FSDP, not ZeRO-3). Raises whatever the
    model and the tokenizer raise.
    """
    torch = sys.modules["torch"]  # whoever has a model in memory has it loaded; a training box without one need not
    token_ids, logprobs = [], []
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
                logits = model(input_ids=tokens).logits[0, :-1]
                said = logits.float().log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0].tolist()
                token_ids.append(tokens[0].tolist())
                logprobs.append([min(0.0, round(value, 6)) for value in said])
    finally:
        model.train(was_training)
    return {"prompt_token_ids": token_ids, "logprobs": logprobs} if token_ids else None
