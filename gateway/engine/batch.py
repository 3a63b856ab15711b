"""Batch work on one engine, in process: no HTTP request and no JSON of token log-probabilities an item."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from vllm.exceptions import GracefulHTTPError
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.detokenizer import IncrementalDetokenizer
from vllm.v1.engine.exceptions import EngineDeadError

from gateway.engine.finite import NotFinite
from gateway.engine.prompts import ITEM_ERRORS, Prompt, Renderer
from gateway.engine.scores import last_output, score
from gateway.errors import Unserved
from gateway.serving.batch_share import BatchShare
from gateway.status.usage import batch_id
from stepserve.contract import BatchItem, BatchOutput, BatchSampling, Completion, TextScore
from stepserve.request_id import job_id


def unserved(group: ExceptionGroup[Exception]) -> Unserved:
    """What a batch ends with that `run_batch` broke off. Raises the group itself when it is a defect."""
    if group.subgroup(EngineDeadError) is not None:
        return Unserved("The engine died during this batch and is being restarted.", 5.0)
    if group.subgroup(GracefulHTTPError) is not None:
        return Unserved("Structured outputs are busy.", 2.0)
    raise group


async def run_batch(
    client: AsyncLLM, state: Any, items: Sequence[BatchItem], sampling: BatchSampling, share: BatchShare
) -> list[BatchOutput]:
    """Answers every item, in order: [n_items], each when `share` has a place. An item that fails carries `error`.

    Raises a group with EngineDeadError when the engine dies, or GracefulHTTPError when a grammar cannot be checked now:
    no item has an answer then.
    """
    renderer = Renderer(client, state, sampling)
    loop = asyncio.get_running_loop()
    batch = batch_id(job_id.get(), uuid.uuid4().hex)
    tasks: list[asyncio.Task[_Answer | BatchOutput]] = []
    async with asyncio.TaskGroup() as group:
        while portion := items[len(tasks) : len(tasks) + share.portion()]:
            if tasks:
                async with share.place():
                    pass  # what could not go in yet need not be rendered yet either
            # Templates and tokenizers run in vLLM's own renderer thread, beside the event loop.
            for prompt in await loop.run_in_executor(client.renderer._executor, renderer.render, portion):
                tasks.append(group.create_task(_answer(client, prompt, f"{batch}-{len(tasks)}", share)))
    answers = [task.result() for task in tasks]
    tokenizer = client.output_processor.tokenizer
    return await loop.run_in_executor(client.renderer._executor, _outputs, answers, tokenizer)


@dataclass(slots=True)
class _Answer:
    """What the engine has said to an item; its words may be tokens still."""

    prompt: Prompt
    generated: RequestOutput
    reference: TextScore | None
    scores: list[TextScore]
    latency_s: float


async def _answer(client: AsyncLLM, prompt: Prompt, request_id: str, share: BatchShare) -> _Answer | BatchOutput:
    if prompt.error is not None:
        return BatchOutput(error=prompt.error, too_long=prompt.too_long)
    async with share.place(prompt.params.n if prompt.params is not None else 1):
        return await _ask(client, prompt, request_id)


async def _ask(client: AsyncLLM, prompt: Prompt, request_id: str) -> _Answer | BatchOutput:
    started = time.monotonic()
    try:
        scores = [await score(client, text, f"{request_id}-{number}") for number, text in enumerate(prompt.texts)]
        if prompt.params is None:
            return BatchOutput(prompt_tokens=prompt.prompt_tokens, latency_s=_since(started), continuations=scores)
        generated = await last_output(client, prompt.engine_input, prompt.params, request_id)
        reference = await _reference_score(client, prompt, generated, f"{request_id}-score")
    except EngineDeadError:
        raise
    except (*ITEM_ERRORS, NotFinite) as error:
        return BatchOutput(error=str(error) or type(error).__name__)
    return _Answer(prompt, generated, reference, scores, _since(started))


def _outputs(answers: Sequence[_Answer | BatchOutput], tokenizer: Any) -> list[BatchOutput]:
    """Blocks for as long as it takes to put the words together."""
    return [_output(answer, tokenizer) if isinstance(answer, _Answer) else answer for answer in answers]


def _output(answer: _Answer, tokenizer: Any) -> BatchOutput:
    generated, reference = answer.generated, answer.reference
    completions = [
        Completion(
            text=_text(answer.prompt, generated, one, tokenizer),
            finish_reason=one.finish_reason,
            completion_tokens=len(one.token_ids),
        )
        for one in generated.outputs
    ]
    return BatchOutput(
        text=completions[0].text,
        finish_reason=completions[0].finish_reason,
        prompt_tokens=len(generated.prompt_token_ids or ()),
        completion_tokens=sum(completion.completion_tokens for completion in completions),
        latency_s=answer.latency_s,
        reference_logprob=reference.logprob if reference else None,
        reference_tokens=reference.tokens if reference and reference.logprob is not None else 0,
        completions=completions if len(completions) > 1 else [],
        continuations=answer.scores,
    )


def _text(prompt: Prompt, generated: RequestOutput, one: CompletionOutput, tokenizer: Any) -> str:
    """By the class that vLLM puts words together with while it streams, so that both ways give the same."""
    if prompt.params is None or prompt.params.detokenize or tokenizer is None:
        return one.text
    asked: Any = SimpleNamespace(
        sampling_params=prompt.params, prompt_token_ids=generated.prompt_token_ids, prompt_embeds=None, request_id="-"
    )
    words = IncrementalDetokenizer.from_new_request(tokenizer, asked)
    words.update(list(one.token_ids), one.finish_reason == "stop")
    return words.get_next_output_text(finished=True, delta=False)


async def _reference_score(
    client: AsyncLLM, prompt: Prompt, generated: RequestOutput, request_id: str
) -> TextScore | None:
    """Of the reference after the prompt; None without one.

    An answer that begins with the reference's own tokens has their log-probabilities already: the same quantity that
    another pass over prompt and reference would give, so only the other answers need that pass.
    """
    reference = prompt.reference
    if reference is None or not reference.ids:
        return None
    output = generated.outputs[0]
    count = len(reference.ids)
    if list(output.token_ids[:count]) == reference.ids:
        return TextScore(logprob=sum(output.logprobs.logprobs[:count]), tokens=count)
    return await score(client, reference, request_id)


def _since(started: float) -> float:
    return round(time.monotonic() - started, 6)
