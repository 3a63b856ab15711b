"""The proof of a switch: a few prompts whose token log-probabilities are compared with a reference."""

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from vllm.inputs.engine import tokens_input
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

from gateway.errors import BadReference
from gateway.serving.proof_difference import chosen_prompts, judge, judge_weakly
from gateway.serving.proof_encodings import encoded_otherwise
from gateway.serving.proof_tolerance import tolerance_of
from stepserve.contract import BATCH_PRIORITY, Proof, Reference

PROOF_PRIORITY = -1  # before interactive requests, which have 0
_CHECK_PRIORITY = BATCH_PRIORITY + 1
_KEPT_QUESTIONS = 2  # of what serves, and of what is to serve
WEAK_PROMPTS = ("What is 17+25?", "The quick brown fox jumps over the lazy dog.", "def add(a, b):\n    return a + b")


async def prove(
    client: AsyncLLM,
    reference: Reference | None,
    max_tokens: int | None = None,
    questions: "Questions | None" = None,
    *,
    gently: bool = False,
    is_adapter: bool = False,
) -> Proof:
    """`gently`: behind all other work, one prompt after the other. `client` asks an adapter's model where `is_adapter`.
    `questions`: those that were made ready for this engine.

    Raises EngineDeadError, and BadReference for one that does not fit the model's tokenizer or context.
    """
    if reference is None:
        return await _prove_weakly(client, gently=gently)
    asked = (questions or Questions()).of(client, reference)
    if asked.reason is not None:
        return Proof(kind=reference.kind, prompts=0, passed=False, reason=asked.reason)
    chosen = chosen_prompts(reference.logprobs, max_tokens)
    found = await logprobs_of(client, [asked.prompts[number] for number in chosen], gently=gently)
    return judge(
        reference.kind,
        found,
        [reference.logprobs[number] for number in chosen],
        _tolerance(client, reference, is_adapter),
    )


@dataclass(frozen=True, slots=True)
class Question:
    """`prompts`: token ids, [n_prompts][n_tokens]. `reason`: why nothing need be asked, the proof has failed."""

    prompts: Sequence[Sequence[int]]
    reason: str | None


class Questions:
    """What the engine's tokenizer and chat template make of references. The last ones are kept: to find it takes as
    long as an answer, and weights that are exchanged change nothing of it.
    """

    def __init__(self) -> None:
        self._known: list[tuple[Reference, Any, Any, Question]] = []

    def of(self, client: AsyncLLM, reference: Reference) -> Question:
        """Raises BadReference for one that does not fit the model's tokenizer."""
        tokenizer = client.renderer.get_tokenizer()
        template = getattr(tokenizer, "chat_template", None)
        for known, asked, written, question in self._known:
            if known is reference and asked is tokenizer and written == template:
                return question
        reason = _encoded_otherwise(tokenizer, reference)
        prompts: Sequence[Sequence[int]] = ()
        if reason is None:
            prompts = reference.prompt_token_ids or [tokenizer.encode(prompt) for prompt in reference.prompts or ()]
            _fits(prompts, reference.logprobs)
        question = Question(prompts, reason)
        self._known = [*self._known[1 - _KEPT_QUESTIONS :], (reference, tokenizer, template, question)]
        return question


def _encoded_otherwise(tokenizer: Any, reference: Reference) -> str | None:
    """Other kinds of tokenizers than transformers' are left alone. Raises BadReference."""
    if not reference.encodings or not isinstance(tokenizer, PreTrainedTokenizerBase):
        return None
    try:
        return encoded_otherwise(tokenizer, reference.encodings)
    except (TemplateError, TypeError, ValueError) as error:
        raise BadReference(f"the chat template cannot be applied to the reference's messages: {error}") from error


def _tolerance(client: AsyncLLM, reference: Reference, is_adapter: bool) -> float:
    config = client.model_config
    quantised = getattr(config.hf_config, "quantization_config", None) or {}
    bits = quantised.get("bits") or quantised.get("w_bit") if isinstance(quantised, dict) else None
    dtype = str(config.dtype).removeprefix("torch.")
    cache = str(client.vllm_config.cache_config.cache_dtype)
    return tolerance_of(reference.kind, reference.noise, dtype, config.quantization, bits, cache, is_adapter=is_adapter)


def _fits(prompts: Sequence[Sequence[int]], logprobs: Sequence[Sequence[float]]) -> None:
    """Raises BadReference."""
    for number, (token_ids, expected) in enumerate(zip(prompts, logprobs, strict=True)):
        if len(token_ids) != len(expected) + 1:
            raise BadReference(
                f"prompt {number} of the probe has {len(token_ids)} tokens here, and {len(expected)} log-probabilities"
            )


async def _prove_weakly(client: AsyncLLM, *, gently: bool) -> Proof:
    return judge_weakly(await weak_answers(client, gently=gently))


async def weak_answers(client: AsyncLLM, *, gently: bool = False) -> list[list[float]]:
    """As `logprobs_of`, of a few prompts that are the same for every model. Raises EngineDeadError."""
    tokenizer = client.renderer.get_tokenizer()
    return await logprobs_of(client, [tokenizer.encode(prompt) for prompt in WEAK_PROMPTS], gently=gently)


async def logprobs_of(client: AsyncLLM, prompts: Sequence[Sequence[int]], *, gently: bool = False) -> list[list[float]]:
    """The log-probability of each prompt's tokens but its first: [n_prompts][n_tokens - 1]. Raises EngineDeadError."""
    if gently:
        return [
            await _prompt_logprobs(client, token_ids, f"proof-{number}", _CHECK_PRIORITY)
            for number, token_ids in enumerate(prompts)
        ]
    each = (_prompt_logprobs(client, token_ids, f"proof-{number}") for number, token_ids in enumerate(prompts))
    return list(await asyncio.gather(*each))


async def _prompt_logprobs(
    client: AsyncLLM, token_ids: Sequence[int], request_id: str, priority: int = PROOF_PRIORITY
) -> list[float]:
    """The log-probability of each token but the first: [n_tokens - 1]."""
    token_ids = list(token_ids)[: client.model_config.max_model_len - 1]
    params = SamplingParams(
        temperature=0.0,
        max_tokens=1,
        prompt_logprobs=0,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    request: Any = {"prompt_token_ids": token_ids}
    unique_id = f"{request_id}-{uuid.uuid4().hex}"
    outputs = [output async for output in client.generate(request, params, unique_id, priority=priority)]
    logprobs: list[float] = outputs[-1].prompt_logprobs.logprobs
    return list(logprobs)


async def token_from(client: AsyncLLM, token_ids: list[int]) -> None:
    """Returns when the engine has generated one token; nothing is tokenized. Raises EngineDeadError."""
    params = SamplingParams(temperature=0.0, max_tokens=1, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY)
    request: Any = tokens_input(token_ids)
    async for _ in client.generate(request, params, f"alive-{uuid.uuid4().hex}", priority=PROOF_PRIORITY):
        pass
