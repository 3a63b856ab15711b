"""What a renderer asks its tokenizer for less often than vLLM does."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gateway.engine.patches.patch import Patch

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM


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


def look_up_less(client: "AsyncLLM") -> None:
    tokenize_together(client.renderer)
    know_end_of_sequence(client.renderer)


PATCH = Patch(
    name="fewer_lookups",
    changes="A batch's prompts are tokenized in one call; the end-of-sequence token is looked up once for each engine.",
    why="vLLM's renderer calls the tokenizer for each prompt, and borrows one from a pool for each request.",
    without="More of the gateway's time for each item of a job. Tokens are the same.",
    gain="14 µs a prompt in the tokenizer instead of 35, with 64 short prompts (`python -m benchmarks.patches`);"
    " 0.53 ms of the gateway's time a sample instead of 0.60, together with `whole_answers` (decision 26).",
    goes_when="vLLM tokenizes a batch in one call and keeps the token.",
    targets={
        "vllm.renderers.base:BaseRenderer.tokenize_prompts": "95894450580a",
        "vllm.renderers.base:BaseRenderer.get_eos_token_id": "85d2331c67c3",
    },
    on_client=look_up_less,
)
