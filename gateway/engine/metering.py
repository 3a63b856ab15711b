"""Counts the tokens of the request that runs in this context, where vLLM hands them over: streams and refusals too."""

from collections.abc import AsyncGenerator, Awaitable
from typing import Any

from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

from gateway.access.meter import METER, Meter


def meter_outputs(client: AsyncLLM) -> None:
    """From now on `generate` and `encode` note in METER what they make; without a meter they are vLLM's own."""
    generate, encode = client.generate, client.encode

    def metered_generate(prompt: Any, sampling_params: SamplingParams, request_id: str, **rest: Any) -> Any:
        outputs = generate(prompt, sampling_params, request_id, **rest)
        meter = METER.get()
        if meter is None:
            return outputs
        cumulative = getattr(sampling_params, "output_kind", None) == RequestOutputKind.CUMULATIVE
        return _generated(outputs, meter, cumulative=cumulative)

    def metered_encode(prompt: Any, pooling_params: Any, request_id: str, **rest: Any) -> Any:
        outputs = encode(prompt, pooling_params, request_id, **rest)
        meter = METER.get()
        return outputs if meter is None else _encoded(outputs, meter)

    client.generate = metered_generate
    client.encode = metered_encode


async def metered(answer: Awaitable[RequestOutput]) -> RequestOutput:
    """A whole answer that was not asked for by `generate`, noted in METER all the same."""
    meter = METER.get()
    if meter is None:
        return await answer
    task = meter.begin()
    try:
        output = await answer
        meter.prompt_tokens += len(output.prompt_token_ids or ())
        meter.completion_tokens += sum(len(each.token_ids) for each in output.outputs)
    finally:
        meter.end(task)
    return output


async def _generated(
    outputs: AsyncGenerator[Any, None], meter: Meter, *, cumulative: bool
) -> AsyncGenerator[Any, None]:
    task = meter.begin()
    prompt_is_counted = False
    counted: dict[int, int] = {}
    try:
        async for output in outputs:
            if not prompt_is_counted:
                prompt_is_counted = True
                meter.prompt_tokens += len(output.prompt_token_ids or ())
            for each in output.outputs:
                tokens = len(each.token_ids)
                if cumulative:
                    before = counted.get(each.index, 0)
                    counted[each.index] = tokens
                    tokens -= before
                meter.completion_tokens += tokens
            yield output
    finally:
        meter.end(task)
        await outputs.aclose()  # else the engine would go on until the garbage collector comes by


async def _encoded(outputs: AsyncGenerator[Any, None], meter: Meter) -> AsyncGenerator[Any, None]:
    task = meter.begin()
    counted = False
    try:
        async for output in outputs:
            if not counted:
                counted = True
                meter.prompt_tokens += len(output.prompt_token_ids or ())
            yield output
    finally:
        meter.end(task)
        await outputs.aclose()
