"""The log-probability of a text after a prompt, by one more pass over both (`prompt_logprobs`)."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

from gateway.engine.metering import metered
from stepserve.contract import BATCH_PRIORITY, TextScore


@dataclass(frozen=True, slots=True)
class PlacedText:
    """A text's tokens (`ids`) behind those of its prompt."""

    prompt_ids: Sequence[int]
    ids: list[int]


def place(tokenizer: Any, prompt_ids: Sequence[int], prompt: str | None, text: str) -> PlacedText:
    """After a plain `prompt` the text is tokenized together with it, and what goes beyond the prompt's tokens is the
    text's: as lm-eval does. After a chat template it stands by itself, as an answer does.
    """
    if prompt is not None:
        together = tokenizer.encode(prompt + text)
        if len(together) > len(prompt_ids):
            return PlacedText(prompt_ids, together[len(prompt_ids) :])
    return PlacedText(prompt_ids, tokenizer.encode(text, add_special_tokens=False))


def place_answers(tokenizer: Any, contexts: Sequence[Sequence[int]], texts: Sequence[str]) -> list[PlacedText]:
    """Each text behind the chat whose token ids stand beside it: tokenized in one call, as one after the other."""
    ids = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
    return [PlacedText(context, own) for context, own in zip(contexts, ids, strict=True)]


async def score(client: AsyncLLM, text: PlacedText, request_id: str) -> TextScore:
    """Null where prompt and text do not fit in the context, or the text has no token."""
    count = len(text.ids)
    token_ids = [*text.prompt_ids, *text.ids]
    if count == 0 or len(token_ids) + 1 > client.model_config.max_model_len:
        return TextScore(logprob=None, tokens=count)
    params = SamplingParams(
        temperature=0.0,
        max_tokens=1,
        prompt_logprobs=0,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    scored = await last_output(client, {"prompt_token_ids": token_ids}, params, request_id)
    # With prompt_logprobs=0 each position after the first holds the log-probability of its own token alone.
    return TextScore(logprob=sum(scored.prompt_logprobs.logprobs[-count:]), tokens=count)


async def last_output(client: AsyncLLM, engine_input: Any, params: SamplingParams, request_id: str) -> RequestOutput:
    """As `AsyncLLM.generate` of FINAL_ONLY parameters, without a generator for the one output that there is."""
    return await metered(_answer(client, engine_input, params, request_id))


async def _answer(client: AsyncLLM, engine_input: Any, params: SamplingParams, request_id: str) -> RequestOutput:
    answer = await client.add_request(request_id, engine_input, params, priority=BATCH_PRIORITY)
    try:
        final: RequestOutput = await answer.get()
    except asyncio.CancelledError:
        await client.abort(answer.request_id, internal=True)
        raise
    finally:
        answer.close()
    return final
