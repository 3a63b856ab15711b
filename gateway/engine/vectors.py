"""Models that make vectors of texts and generate none: how one is recognised, proved, and asked whether it lives."""

import asyncio
import uuid
from collections.abc import Sequence
from itertools import pairwise
from math import dist, isfinite
from typing import Any

from vllm.inputs.engine import tokens_input
from vllm.pooling_params import PoolingParams
from vllm.v1.engine.async_llm import AsyncLLM

from gateway.engine.proof import PROOF_PRIORITY, WEAK_PROMPTS
from gateway.errors import EngineStartFailed
from stepserve.contract import ModelTask, Proof

_SAME_VECTOR = 1e-6
_WHY = "the model makes vectors, of which no reference says anything"


def task_of(model_id: str, tasks: Sequence[str]) -> ModelTask:
    """What of vLLM's tasks is served here. Raises EngineStartFailed for a model with which nothing here can be done."""
    if "generate" in tasks:
        return "generate"
    if "embed" in tasks:
        return "embed"
    raise EngineStartFailed(
        f"`{model_id}` neither generates text nor makes embeddings; what vLLM can do with it"
        f" ({', '.join(tasks) or 'nothing'}) has no route here"
    )


async def prove_vectors(client: AsyncLLM) -> Proof:
    """That there are finite vectors, other ones for other texts; no reference says what is in them.

    Raises EngineDeadError.
    """
    tokenizer = client.renderer.get_tokenizer()
    vectors = await asyncio.gather(
        *(
            _vector(client, tokenizer.encode(prompt), f"proof-{number}-{uuid.uuid4().hex}")
            for number, prompt in enumerate(WEAK_PROMPTS)
        )
    )
    reason = None
    if not all(isfinite(value) for vector in vectors for value in vector):
        reason = "a number of a vector is not finite"
    elif any(dist(*pair) <= _SAME_VECTOR for pair in pairwise(vectors)):
        reason = "two different texts have the same vector"
    return Proof(kind="weak", prompts=len(vectors), passed=reason is None, reason=reason, why=_WHY)


async def vector_from(client: AsyncLLM, token_ids: list[int]) -> None:
    """Returns when the engine has made one vector; nothing is tokenized. Raises EngineDeadError."""
    await _vector(client, token_ids, f"alive-{uuid.uuid4().hex}")


async def _vector(client: AsyncLLM, token_ids: list[int], request_id: str) -> list[float]:
    request: Any = tokens_input(token_ids[: client.model_config.max_model_len])
    params = PoolingParams(task="embed")
    outputs = [output async for output in client.encode(request, params, request_id, priority=PROOF_PRIORITY)]
    return [float(value) for value in outputs[-1].outputs.data]
