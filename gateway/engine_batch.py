"""Batch work on one engine, in process: no HTTP request and no JSON of token log-probabilities an item.

Prompts are rendered by the objects, and with the parameters, that `/v1/chat/completions` and `/v1/completions` of the
same slot use, so a chat template gives the same tokens on either way.
"""

import asyncio
import copy
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.utils.api_utils import get_max_tokens
from vllm.exceptions import VLLMClientError
from vllm.outputs import RequestOutput
from vllm.renderers import merge_kwargs
from vllm.renderers.inputs.preprocess import parse_model_prompt
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from switchyard.contract import BATCH_PRIORITY, BatchItem, BatchOutput, BatchSampling

# What vLLM and its libraries raise for a prompt that cannot be asked, as its own error handlers list them.
_ITEM_ERRORS = (VLLMClientError, ValueError, TypeError, OverflowError, NotImplementedError, TemplateError)


@dataclass(slots=True)
class _Prompt:
    """An item ready for the engine, or why it cannot be asked."""

    engine_input: Any = None
    params: SamplingParams | None = None
    reference_ids: list[int] | None = None
    error: str | None = None


async def run_batch(
    client: AsyncLLM, state: Any, items: Sequence[BatchItem], sampling: BatchSampling
) -> list[BatchOutput]:
    """Answers every item, in order: [n_items]. An item that fails carries `error`.

    Raises a group with EngineDeadError when the engine dies: no item has an answer then.
    """
    renderer = _Renderer(client, state.online_renderer, sampling)
    # Templates and tokenizers run in vLLM's own renderer thread, once for the batch, beside the event loop.
    loop = asyncio.get_running_loop()
    prompts = await loop.run_in_executor(client.renderer._executor, renderer.render, items)
    batch_id = f"batch-{uuid.uuid4().hex}"
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_answer(client, prompt, f"{batch_id}-{number}")) for number, prompt in enumerate(prompts)
        ]
    return [task.result() for task in tasks]


class _Renderer:
    """Turns items into token ids and sampling parameters; one a batch. Blocks, so it runs in a thread."""

    def __init__(self, client: AsyncLLM, online: Any, sampling: BatchSampling) -> None:
        self._renderer = client.renderer
        self._model_config = client.model_config
        self._tokenizer = client.renderer.get_tokenizer()
        self._defaults = client.model_config.get_diff_sampling_param()
        self._sampling = sampling
        self._params: dict[str, SamplingParams] = {}
        chat = ChatCompletionRequest(messages=[{"role": "user", "content": "-"}], **_options(sampling))
        plain = CompletionRequest(prompt="-", **_options(sampling))
        self._chat_params = chat.build_chat_params(
            online.chat_template, online.chat_template_content_format
        ).with_defaults(merge_kwargs(online.default_chat_template_kwargs, {"tools": None, "tokenize": False}))
        self._chat_tokens = chat.build_tok_params(self._model_config)
        self._plain_tokens = plain.build_tok_params(self._model_config)

    def render(self, items: Sequence[BatchItem]) -> list[_Prompt]:
        prompts = [_Prompt() for _ in items]
        pairs = list(zip(items, prompts, strict=True))
        chats = [(item, prompt) for item, prompt in pairs if item.messages is not None and item.prompt is None]
        plains = [(item, prompt) for item, prompt in pairs if item.prompt is not None and item.messages is None]
        self._render_group(chats, self._render_chats)
        self._render_group(plains, self._render_plains)
        for prompt in prompts:
            if prompt.engine_input is None and prompt.error is None:
                prompt.error = "an item has either `messages` or `prompt`"
        return prompts

    def _render_group(
        self,
        pairs: list[tuple[BatchItem, _Prompt]],
        render: Callable[[list[BatchItem]], list[Any]],
    ) -> None:
        """Renders all at once; where one cannot be, each by itself, so that it fails alone."""
        if not pairs:
            return
        try:
            inputs = render([item for item, _ in pairs])
        except _ITEM_ERRORS as error:
            if len(pairs) == 1:
                pairs[0][1].error = str(error) or type(error).__name__
                return
            for pair in pairs:
                self._render_group([pair], render)
            return
        for (item, prompt), engine_input in zip(pairs, inputs, strict=True):
            self._complete(item, prompt, engine_input)

    def _render_chats(self, items: list[BatchItem]) -> list[Any]:
        conversations = [[message.model_dump(exclude_none=True) for message in item.messages or ()] for item in items]
        inputs: list[Any] = self._renderer.render_chat(conversations, self._chat_params, self._chat_tokens)[1]
        return inputs

    def _render_plains(self, items: list[BatchItem]) -> list[Any]:
        parsed = [parse_model_prompt(self._model_config, item.prompt) for item in items]
        inputs: list[Any] = self._renderer.render_cmpl(parsed, self._plain_tokens)
        return inputs

    def _complete(self, item: BatchItem, prompt: _Prompt, engine_input: Any) -> None:
        sampling = item.sampling or self._sampling
        try:
            params = self._params_of(item, sampling)
            params.max_tokens = get_max_tokens(
                self._model_config.max_model_len,
                sampling.max_tokens,
                len(engine_input["prompt_token_ids"]),
                self._defaults,
            )
        except _ITEM_ERRORS as error:
            prompt.error = str(error)
            return
        if item.reference:
            prompt.reference_ids = self._tokenizer.encode(item.reference, add_special_tokens=False)
            params.logprobs, params.flat_logprobs = 0, True
        prompt.engine_input, prompt.params = engine_input, params

    def _params_of(self, item: BatchItem, sampling: BatchSampling) -> SamplingParams:
        """The item's own copy. Built once for all items that differ in their seeds and lengths alone."""
        alike = sampling.model_copy(update={"seed": None, "max_tokens": 1})
        key = f"{item.messages is None} {alike.model_dump_json() if item.sampling else ''}"
        if key not in self._params:
            request = (
                CompletionRequest(prompt="-", **_options(alike))
                if item.messages is None
                else ChatCompletionRequest(messages=[{"role": "user", "content": "-"}], **_options(alike))
            )
            self._params[key] = request.to_sampling_params(1, self._defaults)
        params = copy.copy(self._params[key])
        params.structured_outputs = copy.copy(params.structured_outputs)
        params.seed = sampling.seed
        return params


def _options(sampling: BatchSampling) -> dict[str, Any]:
    """As the fields of vLLM's requests; the longest answer is worked out for each prompt by itself."""
    options = sampling.model_dump(exclude={"max_tokens", "stop", "json_schema"}) | {"stop": sampling.stop or None}
    if sampling.json_schema is not None:
        options["structured_outputs"] = {"json": sampling.json_schema}
    return options


async def _answer(client: AsyncLLM, prompt: _Prompt, request_id: str) -> BatchOutput:
    if prompt.error is not None:
        return BatchOutput(error=prompt.error)
    started = time.monotonic()
    try:
        generated = await _last(client, prompt.engine_input, prompt.params, request_id)
        score = await _score(client, prompt, generated, f"{request_id}-score")
    except EngineDeadError:
        raise
    except _ITEM_ERRORS as error:
        return BatchOutput(error=str(error) or type(error).__name__)
    output = generated.outputs[0]
    return BatchOutput(
        text=output.text,
        finish_reason=output.finish_reason,
        prompt_tokens=len(generated.prompt_token_ids or ()),
        completion_tokens=len(output.token_ids),
        latency_s=round(time.monotonic() - started, 6),
        reference_logprob=score,
        reference_tokens=len(prompt.reference_ids or ()) if score is not None else 0,
    )


async def _score(client: AsyncLLM, prompt: _Prompt, generated: RequestOutput, request_id: str) -> float | None:
    """The log-probability of the reference after the prompt; None without one, or where it does not fit.

    An answer that begins with the reference's own tokens has their log-probabilities already: the same quantity that
    another pass over prompt and reference would give, so only the other answers need that pass.
    """
    reference_ids = prompt.reference_ids
    if not reference_ids:
        return None
    output = generated.outputs[0]
    count = len(reference_ids)
    if list(output.token_ids[:count]) == reference_ids:
        return sum(output.logprobs.logprobs[:count])
    token_ids = [*prompt.engine_input["prompt_token_ids"], *reference_ids]
    if len(token_ids) + 1 > client.model_config.max_model_len:
        return None
    params = SamplingParams(
        temperature=0.0,
        max_tokens=1,
        prompt_logprobs=0,
        flat_logprobs=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    scored = await _last(client, {"prompt_token_ids": token_ids}, params, request_id)
    # With prompt_logprobs=0 each position after the first holds the log-probability of its own token alone.
    return sum(scored.prompt_logprobs.logprobs[-count:])


async def _last(client: AsyncLLM, engine_input: Any, params: SamplingParams | None, request_id: str) -> RequestOutput:
    assert params is not None
    outputs = client.generate(engine_input, params, request_id, priority=BATCH_PRIORITY)
    final: RequestOutput = [output async for output in outputs][-1]  # FINAL_ONLY: there is one
    return final
