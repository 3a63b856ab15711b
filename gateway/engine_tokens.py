"""What a renderer asks its tokenizer for less often than vLLM does."""

from collections.abc import Sequence
from typing import Any


def tokenize_together(renderer: Any) -> None:
    """Has prompts that come together be tokenized in one call, where vLLM's renderer calls the tokenizer for each.

    Changes this renderer's `tokenize_prompts`, which batch work alone goes through.

    Only the tokenizer's call is another: what vLLM does to a text before and to its tokens after, it still does.
    """
    one_by_one = renderer.tokenize_prompts

    def together(prompts: Sequence[Any], params: Any) -> Any:
        texts = [prompt for prompt in prompts if set(prompt) == {"prompt"}]
        if len(texts) > 1 and not params.return_token_offsets:
            for prompt in texts:
                params.apply_pre_tokenization(renderer.tokenizer, prompt)
            encoded = renderer.tokenizer([prompt["prompt"] for prompt in texts], **params.get_encode_kwargs())
            for prompt, ids in zip(texts, encoded["input_ids"], strict=True):
                prompt["prompt_token_ids"] = ids
        return one_by_one(prompts, params)

    renderer.tokenize_prompts = together


def know_end_of_sequence(renderer: Any) -> None:
    """Looks the token up once. vLLM does for each request, which borrows a tokenizer from a pool to have it look."""
    token: int | None = renderer.get_eos_token_id()
    renderer.get_eos_token_id = lambda: token
