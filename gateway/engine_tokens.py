"""Prompts that come together are tokenized in one call, where vLLM's renderer calls the tokenizer for each."""

from collections.abc import Sequence
from typing import Any


def tokenize_together(renderer: Any) -> None:
    """Changes this renderer's `tokenize_prompts`, which batch work alone goes through.

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
