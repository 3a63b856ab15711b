"""Batch work on one engine, in process: no HTTP request and no JSON of token log-probabilities an item.

Prompts are rendered by the very objects that `/v1/chat/completions` and `/v1/completions` of the same slot use, so a
chat template gives the same tokens on either way.
"""

import asyncio
import time
import uuid
from collections.abc import Sequence
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.utils.api_utils import get_max_tokens
from vllm.exceptions import VLLMClientError
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from gateway.asgi import App
from switchyard.contract import BATCH_PRIORITY, BatchItem, BatchOutput, BatchSampling


class ItemRefused(Exception):
    """One item cannot be asked (too long, no chat template …); the others can."""


async def run_batch(
    client: AsyncLLM, app: App, items: Sequence[BatchItem], sampling: BatchSampling
) -> list[BatchOutput]:
    """Answers every item, in order: [n_items]. An item that fails carries `error`; EngineDeadError fails them all."""
    batch = _Batch(client, app, sampling)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(batch.answer(number, item)) for number, item in enumerate(items)]
    return [task.result() for task in tasks]


class _Batch:
    def __init__(self, client: AsyncLLM, app: Any, sampling: BatchSampling) -> None:
        self._client = client
        self._renderer = app.state.online_renderer
        self._defaults = client.model_config.get_diff_sampling_param()
        self._max_model_len = client.model_config.max_model_len
        self._id = f"batch-{uuid.uuid4().hex}"
        self._sampling: dict[str, Any] = sampling.model_dump(exclude={"max_tokens", "stop"})
        self._sampling["stop"] = sampling.stop or None
        self._max_tokens = sampling.max_tokens

    async def answer(self, number: int, item: BatchItem) -> BatchOutput:
        started = time.monotonic()
        try:
            engine_input, params = await self._render(item)
            generated, score = await self._generate(number, engine_input, params, item.reference)
        except EngineDeadError:
            raise
        except (ItemRefused, VLLMClientError, ValueError, TypeError) as error:
            return BatchOutput(error=str(error) or type(error).__name__)
        output = generated.outputs[0]
        return BatchOutput(
            text=output.text,
            finish_reason=output.finish_reason,
            prompt_tokens=len(generated.prompt_token_ids or []),
            completion_tokens=len(output.token_ids),
            latency_s=round(time.monotonic() - started, 6),
            reference_logprob=score[0] if score else None,
            reference_tokens=score[1] if score else 0,
        )

    async def _render(self, item: BatchItem) -> tuple[Any, SamplingParams]:
        request: Any
        if item.messages is not None and item.prompt is None:
            messages = [message.model_dump(exclude_none=True) for message in item.messages]
            request = ChatCompletionRequest(messages=messages, **self._sampling)
            rendered = await self._renderer.render_chat(request)
            inputs = rendered if isinstance(rendered, ErrorResponse) else rendered[1]
        elif item.prompt is not None and item.messages is None:
            request = CompletionRequest(prompt=item.prompt, **self._sampling)
            inputs = await self._renderer.render_completion(request)
        else:
            raise ItemRefused("an item has either `messages` or `prompt`")
        if isinstance(inputs, ErrorResponse):
            raise ItemRefused(inputs.error.message)
        (engine_input,) = inputs
        room = get_max_tokens(
            self._max_model_len, self._max_tokens, len(engine_input["prompt_token_ids"]), self._defaults
        )
        params: SamplingParams = request.to_sampling_params(room, self._defaults)
        return engine_input, params

    async def _generate(
        self, number: int, engine_input: Any, params: SamplingParams, reference: str | None
    ) -> tuple[RequestOutput, tuple[float, int] | None]:
        request_id = f"{self._id}-{number}"
        if not reference:
            return await self._last(engine_input, params, request_id), None
        generated, score = await asyncio.gather(
            self._last(engine_input, params, request_id),
            self._score(engine_input["prompt_token_ids"], reference, f"{request_id}-score"),
        )
        return generated, score

    async def _score(self, prompt_ids: list[int], reference: str, request_id: str) -> tuple[float, int] | None:
        """Sum of the reference's token log-probabilities after the prompt, and how many tokens; None: too long."""
        reference_ids = self._client.renderer.get_tokenizer().encode(reference, add_special_tokens=False)
        if not reference_ids or len(prompt_ids) + len(reference_ids) + 1 > self._max_model_len:
            return None
        params = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            prompt_logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        scored = await self._last({"prompt_token_ids": [*prompt_ids, *reference_ids]}, params, request_id)
        # With prompt_logprobs=0 each position after the first holds the log-probability of its own token alone.
        return sum(scored.prompt_logprobs.logprobs[-len(reference_ids) :]), len(reference_ids)

    async def _last(self, engine_input: Any, params: SamplingParams, request_id: str) -> RequestOutput:
        outputs = self._client.generate(engine_input, params, request_id, priority=BATCH_PRIORITY)
        final: RequestOutput = [output async for output in outputs][-1]  # FINAL_ONLY: there is one
        return final
