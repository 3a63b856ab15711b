"""What a renderer asks its tokenizer for less often than vLLM does, and when."""

import asyncio
from collections.abc import Sequence
from typing import Any

_LONG_CHARS = 64 * 1024  # of a request; tokenized in some 20 ms


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


def long_texts_in_turn(renderer: Any) -> None:
    """Has one request's long texts be tokenized at a time, one after the other.

    Changes this renderer's `tokenize_prompts_async`, which whoever waits for an answer goes through. vLLM puts all
    texts of all requests into the queue of a few threads, and a short one waits for all that came before it. Of the two
    threads there are (gateway.engine_config) this leaves one to short texts.
    """
    at_once = renderer.tokenize_prompts_async
    turn = asyncio.Lock()

    async def in_turn(prompts: Sequence[Any], params: Any) -> Any:
        if sum(_chars(prompt) for prompt in prompts) <= _LONG_CHARS:
            return await at_once(prompts, params)
        async with turn:
            return [(await at_once([prompt], params))[0] for prompt in prompts]

    renderer.tokenize_prompts_async = in_turn


def _chars(prompt: Any) -> int:
    text = prompt.get("prompt")
    return len(text) if isinstance(text, str) else 0


def know_end_of_sequence(renderer: Any) -> None:
    """Looks the token up once. vLLM does for each request, which borrows a tokenizer from a pool to have it look."""
    token: int | None = renderer.get_eos_token_id()
    renderer.get_eos_token_id = lambda: token
