"""A LoRA adapter on a running engine: another of vLLM's front ends, each of whose requests has the adapter.

So nothing of a request has to be rewritten, and no request can miss the adapter, whatever its `model` says.
"""

import asyncio
import contextlib
import itertools
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from vllm.lora.request import LoRARequest
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from gateway.engine.batch import run_batch, unserved
from gateway.engine.patches.adapter_front import answer_with
from gateway.engine.process.log import LogMark
from gateway.engine.proof import prove
from gateway.errors import EngineStartFailed
from gateway.http.asgi import App
from gateway.serving.batch_share import BatchShare
from stepserve.contract import ACTIVE_ALIAS, BatchItem, BatchOutput, BatchSampling, ModelRef, Proof, Reference

PROBE_TIMEOUT_S = 120.0

_numbers = itertools.count(1)


def lora_of(model: ModelRef) -> LoRARequest:
    """Number and name are new for each content: by the name vLLM tells the KV cache of one version from another's."""
    digest = model.digest.removeprefix("sha256:")
    return LoRARequest(lora_name=f"{model.id}@{digest}", lora_int_id=next(_numbers), lora_path=model.path)


class AdapterFront:
    """Implements gateway.serving.adapter.Front."""

    def __init__(
        self, client: AsyncLLM, app: FastAPI, model: ModelRef, lora: LoRARequest, share: BatchShare, log_file: Path
    ) -> None:
        self._share = share
        self._log_file = log_file
        self.app: App = app
        self._state: Any = app.state
        self._client: Any = _Adapted(client, lora)
        self._lora = lora
        answer_with(self._state, lora, model.id)

    async def prove(self, reference: Reference | None, *, max_tokens: int | None = None, gently: bool = False) -> Proof:
        """As Engine.prove."""
        mark = LogMark.now(self._log_file)
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                return await prove(self._client, reference, max_tokens, gently=gently, is_adapter=True)
        except TimeoutError as error:
            raise EngineStartFailed(f"no answer to a probe within {PROBE_TIMEOUT_S:.0f} s") from error
        except EngineDeadError as error:
            died = f"the engine died at the adapter's first forward pass: {mark.last_words()}"
            raise EngineStartFailed(died) from error

    async def batch(self, items: Sequence[BatchItem], sampling: BatchSampling) -> list[BatchOutput]:
        """As Engine.batch."""
        try:
            return await run_batch(self._client, self._state, items, sampling, self._share)
        except ExceptionGroup as group:
            raise unserved(group) from group

    async def detach(self) -> None:
        """Frees its place in the engine. Requests that still run with it bring it back for as long as they last."""
        with contextlib.suppress(EngineDeadError, TimeoutError):  # one that hangs is a watchdog's
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await self._client.remove_lora(self._lora.lora_int_id)


async def add(client: AsyncLLM, model: ModelRef) -> LoRARequest:
    """Raises EngineStartFailed with vLLM's reason."""
    lora = lora_of(model)
    try:
        await client.add_lora(lora)
    except Exception as error:  # the engine passes on whatever its worker raised
        raise EngineStartFailed(f"vLLM could not load the adapter `{model.id}`: {error}") from error
    return lora


def arguments_of(args: Namespace, model: ModelRef) -> Namespace:
    """The engine's own, for a front end that answers to the adapter's id, with the adapter's template if it has one."""
    own = {"served_model_name": [model.id, ACTIVE_ALIAS], "chat_template": model.chat_template or args.chat_template}
    return Namespace(**(vars(args) | own))


class _Adapted:
    """The engine's client, whose generations all have the adapter."""

    def __init__(self, client: AsyncLLM, lora: LoRARequest) -> None:
        self._client = client
        self._lora = lora

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def generate(self, *args: Any, **options: Any) -> Any:
        return self._client.generate(*args, lora_request=self._lora, **options)

    async def add_request(self, *args: Any, **options: Any) -> Any:
        return await self._client.add_request(*args, lora_request=self._lora, **options)
