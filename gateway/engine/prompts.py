"""Prompts of batch work, made ready for one engine: token ids and sampling parameters.

They are rendered by the objects, and with the parameters, that `/v1/chat/completions` and `/v1/completions` of the same
slot use, so a chat template gives the same tokens on either way.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import TemplateError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.utils.api_utils import get_max_tokens
from vllm.exceptions import VLLMClientError, VLLMValidationError
from vllm.renderers import merge_kwargs
from vllm.renderers.inputs.preprocess import parse_model_prompt
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

from gateway.engine.scores import PlacedText, place, place_answers
from gateway.missing_template import in_our_words
from stepserve.contract import BatchItem, BatchSampling, Continuations

# What vLLM and its libraries raise for a prompt that cannot be asked, as its own error handlers list them.
ITEM_ERRORS = (VLLMClientError, ValueError, TypeError, OverflowError, NotImplementedError, TemplateError)
# What vLLM calls the parameter that a prompt of too many characters or tokens is refused for.
_LENGTHS = ("input_text", "input_tokens")


@dataclass(slots=True)
class Prompt:
    """An item ready for the engine, or why it cannot be asked."""

    engine_input: Any = None
    params: SamplingParams | None = None
    prompt_tokens: int = 0
    reference: PlacedText | None = None
    texts: list[PlacedText] = field(default_factory=list)
    error: str | None = None
    too_long: bool = False


class Renderer:
    """Turns items into token ids and sampling parameters; one a batch. Blocks, so it runs in a thread."""

    def __init__(self, client: AsyncLLM, state: Any, sampling: BatchSampling) -> None:
        online = state.online_renderer
        self._renderer = client.renderer
        self._model_config = client.model_config
        self._name = state.openai_serving_models.model_name()
        self._tokenizer = client.renderer.get_tokenizer()
        # The model's, which the engine's config would read from the folder it was started from: that may be gone.
        self._defaults = state.openai_serving_chat.default_sampling_params
        self._sampling = sampling
        self._params: dict[str, SamplingParams] = {}
        chat = ChatCompletionRequest(messages=[{"role": "user", "content": "-"}], **_options(sampling))
        plain = CompletionRequest(prompt="-", **_options(sampling))
        self._chat_params = chat.build_chat_params(
            online.chat_template, online.chat_template_content_format
        ).with_defaults(merge_kwargs(online.default_chat_template_kwargs, {"tools": None, "tokenize": False}))
        self._chat_tokens = chat.build_tok_params(self._model_config)
        self._plain_tokens = plain.build_tok_params(self._model_config)

    def render(self, items: Sequence[BatchItem]) -> list[Prompt]:
        prompts = [Prompt() for _ in items]
        own = [(item, prompt) for item, prompt in zip(items, prompts, strict=True) if item.generate]
        # Continuations have prompts of their own, rendered as those of items that generate nothing.
        others = [
            (
                BatchItem(messages=item.continuations.messages, prompt=item.continuations.prompt, generate=False),
                Prompt(),
            )
            if item.continuations
            else None
            for item in items
        ]
        pairs = [*own, *(pair for pair in others if pair is not None)]
        chats = [(item, prompt) for item, prompt in pairs if item.messages is not None and item.prompt is None]
        plains = [(item, prompt) for item, prompt in pairs if item.prompt is not None and item.messages is None]
        self._render_group(chats, self._render_chats)
        self._render_group(plains, self._render_plains)
        for _, prompt in pairs:
            if prompt.engine_input is None and prompt.error is None:
                prompt.error = "an item has either `messages` or `prompt`"
        for item, prompt, other in zip(items, prompts, others, strict=True):
            if other is not None and item.continuations is not None:
                self._place_texts(item.continuations, prompt, other[1])
            elif not item.generate:
                prompt.error = "an item that generates nothing needs `continuations`"
        return prompts

    def _place_texts(self, continuations: Continuations, prompt: Prompt, context: Prompt) -> None:
        if context.error is not None:
            prompt.error, prompt.too_long = prompt.error or context.error, prompt.too_long or context.too_long
            return
        ids = context.engine_input["prompt_token_ids"]
        prompt.prompt_tokens = prompt.prompt_tokens or len(ids)
        prompt.texts = [place(self._tokenizer, ids, continuations.prompt, text) for text in continuations.texts]

    def _render_group(
        self,
        pairs: list[tuple[BatchItem, Prompt]],
        render: Callable[[list[BatchItem]], list[Any]],
    ) -> None:
        """Renders all at once; where one cannot be, each by itself, so that it fails alone."""
        if not pairs:
            return
        try:
            inputs = render([item for item, _ in pairs])
        except ITEM_ERRORS as error:
            if len(pairs) == 1:
                pairs[0][1].error = in_our_words(str(error), self._name) or str(error) or type(error).__name__
                pairs[0][1].too_long = isinstance(error, VLLMValidationError) and error.parameter in _LENGTHS
                return
            for pair in pairs:
                self._render_group([pair], render)
            return
        for (item, prompt), engine_input in zip(pairs, inputs, strict=True):
            self._complete(item, prompt, engine_input)
        self._place_references(pairs)

    def _render_chats(self, items: list[BatchItem]) -> list[Any]:
        conversations = [[message.model_dump(exclude_none=True) for message in item.messages or ()] for item in items]
        inputs: list[Any] = self._renderer.render_chat(conversations, self._chat_params, self._chat_tokens)[1]
        return inputs

    def _render_plains(self, items: list[BatchItem]) -> list[Any]:
        parsed = [parse_model_prompt(self._model_config, item.prompt) for item in items]
        inputs: list[Any] = self._renderer.render_cmpl(parsed, self._plain_tokens)
        return inputs

    def _complete(self, item: BatchItem, prompt: Prompt, engine_input: Any) -> None:
        ids = engine_input["prompt_token_ids"]
        prompt.engine_input, prompt.prompt_tokens = engine_input, len(ids)
        limit = self._model_config.max_model_len
        if len(ids) >= limit:
            prompt.error = f"the prompt has {len(ids)} tokens, which leaves none to answer in (context: {limit})"
            prompt.too_long = True
            return
        if not item.generate:
            return
        sampling = item.sampling or self._sampling
        try:
            params = self._params_of(item, sampling)
            params.max_tokens = get_max_tokens(limit, sampling.max_tokens, len(ids), self._defaults)
        except ITEM_ERRORS as error:
            prompt.error = str(error)
            return
        if item.reference:
            params.logprobs, params.flat_logprobs = 0, True
        prompt.params = params

    def _place_references(self, pairs: Sequence[tuple[BatchItem, Prompt]]) -> None:
        chats: list[tuple[Prompt, Sequence[int], str]] = []
        for item, prompt in pairs:
            if not item.reference or prompt.params is None:
                continue
            ids = prompt.engine_input["prompt_token_ids"]
            if item.prompt is None:
                chats.append((prompt, ids, item.reference))
            else:
                prompt.reference = place(self._tokenizer, ids, item.prompt, item.reference)
        placed = place_answers(self._tokenizer, [ids for _, ids, _ in chats], [text for *_, text in chats])
        for (prompt, *_), reference in zip(chats, placed, strict=True):
            prompt.reference = reference

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
        # Nobody reads along, so the words are put together at the end; only stop strings are looked for as they come.
        params.detokenize = bool(params.stop)
        return params


def _options(sampling: BatchSampling) -> dict[str, Any]:
    """As the fields of vLLM's requests; the longest answer is worked out for each prompt by itself."""
    options = sampling.model_dump(exclude={"max_tokens", "stop", "json_schema"}) | {"stop": sampling.stop or None}
    if sampling.json_schema is not None:
        options["structured_outputs"] = {"json": sampling.json_schema}
    return options
