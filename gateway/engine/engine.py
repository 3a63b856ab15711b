"""The one module that knows vLLM: an AsyncLLM, the ASGI app that vLLM builds for it, and how both start and end.

Written for vLLM 0.32 and 0.33; docs/engine.md lists what to look at for the next one.
"""

import asyncio
import gc
import logging
import os
from argparse import Namespace
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.exceptions import VLLMClientError
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from gateway.dialects.reasoning import with_reasoning_content
from gateway.engine.adapter import AdapterFront, add, arguments_of
from gateway.engine.batch import run_batch, unserved
from gateway.engine.cache_check import CacheCheck
from gateway.engine.cards import placed, visible
from gateway.engine.config import engine_config
from gateway.engine.finite import Refusals
from gateway.engine.metrics import Progress
from gateway.engine.patches.finite_answers import refuse_not_finite
from gateway.engine.patches.forked_engines import are_forked
from gateway.engine.patches.grammar_trials import try_grammars
from gateway.engine.patches.lasting_metrics import stat_loggers
from gateway.engine.patches.model_identity import rename, set_fingerprint
from gateway.engine.patches.process_guard import STOP_SIGNAL
from gateway.engine.patches.registry import ActivePatches
from gateway.engine.patches.set_aside import PUT_BACK, SET_ASIDE
from gateway.engine.process.family import Family, Starting, family_of, kill
from gateway.engine.process.guard import GUARD_VARIABLE
from gateway.engine.process.log import LogMark
from gateway.engine.process.start import in_time
from gateway.engine.process.start_method import ensure_start_method
from gateway.engine.proof import PROOF_PRIORITY, Questions, prove, token_from, weak_answers
from gateway.engine.staged import staged
from gateway.engine.structured import GrammarCheck
from gateway.engine.vectors import prove_vectors, task_of, vector_from
from gateway.errors import (
    BadReference,
    EngineArgumentRefused,
    EngineReloadFailed,
    EngineStartFailed,
    InvalidRequest,
    Unserved,
)
from gateway.http.asgi import App
from gateway.serving.batch_share import BatchShare
from gateway.serving.parsers import with_parsers
from gateway.serving.proof_difference import without_stale_cache
from stepserve.contract import (
    BatchItem,
    BatchOutput,
    BatchSampling,
    ModelRef,
    ModelTask,
    Placement,
    Proof,
    Reference,
)
from stepserve.process import spare_collector
from stepserve.settings import EngineSettings
from stepserve.shared_memory import remove, segments_of

log = logging.getLogger(__name__)

_PROBE_TIMEOUT_S = 120.0
_SLOWEST_DISK_BYTES_S = 50e6  # a network disk on a bad day
_FAMILY_ENDS_WITHIN_S = 1.5  # those below a core that was killed see that within a second
# With so many a first token takes less than twice as long as without (benchmarks/eval.py): each lengthens a step where
# there are a few cores, and hardly where there are thousands.
_BESIDE_ON_CPU, _BESIDE_ON_GPU = 4, 16

# What vLLM is made of, 600,000 objects, is never garbage. A collector that looks at it holds every stream up for half a
# second, at each engine's end. Not spared are an engine's own objects, some 30,000: they go when the engine goes.
spare_collector()


class Engine:
    """A started engine. Use `start`; every method runs in the event loop that serves requests."""

    placement: Placement | None = None  # known to who chose it (gateway.serving.cards)
    other_nodes = 0  # likewise (gateway.nodes)

    def __init__(
        self,
        client: AsyncLLM,
        app: FastAPI,
        args: Namespace,
        share: BatchShare,
        grammars: GrammarCheck,
        progress: Progress,
        settings: EngineSettings,
        family: Family,
        log_file: Path,
        refusals: Refusals,
        *,
        task: ModelTask = "generate",
        has_reasoning_parser: bool = False,
        reload_obstacle: str | None = None,
    ) -> None:
        self.client = client
        self._args = args
        self.share = share
        self._grammars = grammars
        self.task = task
        self.reload_obstacle = reload_obstacle
        self._app = app
        self._has_reasoning_parser = has_reasoning_parser
        self.app: App = with_reasoning_content(app) if has_reasoning_parser else app
        self._state: Any = app.state
        self._progress = progress
        self._settings = settings
        self._probe_token_ids: list[int] = client.renderer.get_tokenizer().encode("1") or [0]
        self._questions = Questions()
        self._cache_check = CacheCheck(client, self._probe_token_ids, PROOF_PRIORITY)
        self._hangs = False
        other = (name for name in ("hf_overrides", "model_class_overrides") if name in settings.args)
        self._other_model = next(other, None)
        self._family = family
        self._log_file = log_file
        self._refusals = refusals
        self._segments = frozenset[Path]().union(*(segments_of(process.pid) for process in self._family))

    @property
    def max_model_len_tokens(self) -> int:
        length: int = self.client.model_config.max_model_len
        return length

    @property
    def max_chars_per_token(self) -> int:
        """The length of the longest token: a text of more characters than as many as fit cannot fit."""
        tokenizer: Any = self.client.renderer.tokenizer
        return getattr(tokenizer, "max_chars_per_token", 1024)

    @property
    def model_runner(self) -> str:
        """Which of vLLM's two model runners computes; setting VLLM_USE_V2_MODEL_RUNNER=0 selects V1."""
        return "V2" if self.client.vllm_config.use_v2_model_runner else "V1"

    @property
    def max_adapters(self) -> int:
        lora = self.client.vllm_config.lora_config
        return lora.max_loras if lora is not None else 0

    @property
    def world_size(self) -> int:
        """How many processes compute, those of data parallelism included."""
        size: int = self.client.vllm_config.parallel_config.world_size_across_dp
        return size

    @property
    def dtype(self) -> str:
        """What the model computes in, as torch names it: `torch.bfloat16`."""
        return str(self.client.model_config.dtype)

    @property
    def logprobs_mode(self) -> str:
        """Which log-probabilities answers have: those of the model, or those after temperature and the like."""
        return str(self.client.model_config.logprobs_mode)

    @property
    def dead(self) -> bool:
        """True once the engine core is gone or has missed a deadline; it never comes back, a new one is needed."""
        errored: bool = self.client.errored
        return errored or self._hangs

    @property
    def progress(self) -> int:
        return self._progress.steps

    @property
    def not_finite(self) -> int:
        """How many answers were refused because their numbers were not finite."""
        return self._refusals.count

    def openapi(self) -> dict[str, Any]:
        """vLLM's own description of its routes. Blocks the first time."""
        document: dict[str, Any] = self._app.openapi()
        return document

    async def prove(self, reference: Reference | None, *, max_tokens: int | None = None, gently: bool = False) -> Proof:
        """Asks the model what the reference says it must answer; without one, whether it answers sensibly at all.

        `max_tokens` bounds how much of the reference is asked for, from its beginning; `gently`: behind all other work.
        One that makes vectors is asked for those; a reference says nothing of them.

        After a reload it also has to show that nothing is left in the KV cache of what was computed before, unless that
        would take more than `max_tokens`.

        A proof that is not passed is a result. Raises EngineStartFailed when the engine dies or does not answer.
        """
        mark = LogMark.now(self._log_file)
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                if self.task == "embed":
                    return await prove_vectors(self.client)
                if reference is not None and self._other_model is not None:
                    why = f"engine.args.{self._other_model} makes another model of it than its reference is of"
                    return (await prove(self.client, None)).model_copy(update={"why": why})
                if gently or (max_tokens is not None and max_tokens < self._cache_check.tokens):
                    return await prove(self.client, reference, max_tokens, self._questions, gently=gently)
                stale_tokens, proof = await asyncio.gather(
                    self._cache_check.stale_tokens(), prove(self.client, reference, max_tokens, self._questions)
                )
                return without_stale_cache(proof, stale_tokens)
        except TimeoutError as error:
            raise EngineStartFailed(f"no answer to a probe within {_PROBE_TIMEOUT_S:.0f} s") from error
        except EngineDeadError as error:
            raise EngineStartFailed(f"the engine died at its first forward pass: {mark.last_words()}") from error
        except (VLLMClientError, ValueError) as error:
            raise BadReference(f"the probe cannot be asked: {error}") from error

    async def answers(self) -> list[list[float]]:
        """What the model says of a few fixed prompts, as log-probabilities: [n_prompts][n_tokens - 1]; none of a model
        that makes vectors. Raises EngineStartFailed when the engine dies or does not answer.
        """
        if self.task == "embed":
            return []
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                return await weak_answers(self.client)
        except TimeoutError as error:
            raise EngineStartFailed(f"no answer to a probe within {_PROBE_TIMEOUT_S:.0f} s") from error
        except EngineDeadError as error:
            raise EngineStartFailed("the engine died when it was asked for a few answers") from error

    async def alive(self) -> None:
        """One token or vector from the engine, before all other work. Hangs as long as the engine does."""
        try:
            await (vector_from if self.task == "embed" else token_from)(self.client, self._probe_token_ids)
        except EngineDeadError as error:
            raise Unserved("The engine is dead.", 5.0) from error

    async def structured_alive(self, timeout_s: float) -> None:
        """One token that is held to a tiny grammar, before all other work; nothing for a model that makes vectors.

        Raises TimeoutError when there is none in time: structured requests hang, even where others are answered.
        """
        if self.task == "embed":
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._grammars.token(self._probe_token_ids)
        except EngineDeadError as error:
            raise Unserved("The engine is dead.", 5.0) from error
        except (VLLMClientError, EngineGenerateError, ValueError) as error:
            log.warning("the engine refused a question of the watchdog's: %s", error)  # and so it lives

    async def freeze(self) -> None:
        """Nothing is computed any more but proofs; requests inside stay, and start their cache anew when `resume` is
        called.

        Raises EngineReloadFailed, as `resume` does, when the engine died or takes too long.
        """
        async with self._standing_still("it was to pause"):
            await self.client.pause_generation(mode="keep", clear_cache=True)
            await self.client.engine_core.call_utility_async(SET_ASIDE, PROOF_PRIORITY)

    async def resume(self) -> None:
        async with self._standing_still("it was to go on"):
            await self.client.engine_core.call_utility_async(PUT_BACK)

    @asynccontextmanager
    async def _standing_still(self, doing: str) -> AsyncIterator[None]:
        """One that fails at it would answer nobody any more, and is taken for dead. Raises EngineReloadFailed."""
        try:
            async with self._deadline(doing):
                yield
        except EngineDeadError as error:
            raise EngineReloadFailed(f"the engine died when {doing}") from error
        except EngineReloadFailed:
            raise
        except Exception as error:
            self._hangs = True
            raise EngineReloadFailed(f"the engine failed when {doing}: {error}") from error

    async def stage(self, model: ModelRef, reference: Reference | None, weights: Path | None = None) -> str | None:
        """Makes ready whatever a reload of the checkpoint, or of the file `weights`, and its proof need and the running
        model does not: both take the less time. It goes on answering meanwhile.

        None: `reload` has only to take over. Otherwise why it will read the files, as it always can. Raises
        EngineReloadFailed when the engine died.
        """
        if reference is not None and self.task != "embed":
            with suppress(BadReference, VLLMClientError, ValueError):  # which the proof will say
                self._questions.of(self.client, reference)
        try:
            # Ranks on accelerators read all of it each; on a CPU each packs its own part.
            copies = 1 if current_platform.is_cpu() else self.client.vllm_config.parallel_config.world_size
            timeout_s = start_timeout_s(model, self._settings)
            return await staged(self.client, model, weights, timeout_s, copies=copies)
        except EngineDeadError as error:
            raise EngineReloadFailed(f"the engine died while `{model.id}` was made ready") from error

    async def unstage(self) -> None:
        """What `stage` made ready is not needed. Raises EngineReloadFailed when the engine died or hangs."""
        try:
            async with self._deadline("what was made ready was dropped"):
                await self.client.collective_rpc("stepserve_unstage")
        except EngineDeadError as error:
            raise EngineReloadFailed("the engine died when what was made ready was dropped") from error

    async def reload(self, model: ModelRef, weights: Path | None = None) -> None:
        """Puts another checkpoint's tensors, or those of the file `weights`, into the running model and makes the slot
        answer to the model's id.

        No request may be running (drained or frozen). Raises EngineReloadFailed: the weights are a mixture then.
        """
        if self.dead:
            raise EngineReloadFailed("the engine is dead")
        try:
            async with self._deadline(f"it loaded `{model.id}`", model):
                self._cache_check.weights_changed()
                file = str(weights) if weights is not None else None
                # The engine does them one after the other, and need not wait for us in between.
                done = await asyncio.gather(
                    self.client.collective_rpc("stepserve_reload", args=(model.path, file)),
                    self.client.reset_prefix_cache(reset_running_requests=True),
                    self.client.reset_encoder_cache(),
                    return_exceptions=True,
                )
                for error in done:
                    if isinstance(error, BaseException):
                        raise error
        except EngineDeadError as error:
            raise EngineReloadFailed(f"the engine died while it loaded `{model.id}`") from error
        except EngineReloadFailed:
            raise
        except Exception as error:
            raise EngineReloadFailed(f"`{model.id}` could not be loaded in place: {error}") from error
        rename(self.client, self._state, model)

    async def forget_prefixes(self, *, of_running: bool, of_connector: bool) -> bool:
        """Whether the prefix cache is empty now; not while requests inside use it, unless those begin anew too.

        Raises EngineReloadFailed as `clear_cache`.
        """
        try:
            async with self._deadline("its prefix cache was cleared"):
                return bool(await self.client.reset_prefix_cache(of_running, of_connector))
        except EngineDeadError as error:
            raise EngineReloadFailed("the engine died while its prefix cache was cleared") from error

    async def clear_cache(self) -> None:
        """Forgets all that was computed of prompts, in every block. No request may be running, but for frozen ones.

        Raises EngineReloadFailed when the engine died or hangs.
        """
        try:
            async with self._deadline("its cache was cleared"):
                await self.client.reset_prefix_cache(reset_running_requests=True)
                await self.client.collective_rpc("stepserve_clear_cache")
        except EngineDeadError as error:
            raise EngineReloadFailed("the engine died while its cache was cleared") from error
        except EngineReloadFailed:
            raise
        except Exception as error:
            raise EngineReloadFailed(f"the cache could not be cleared: {error}") from error

    @asynccontextmanager
    async def _deadline(self, doing: str, model: ModelRef | None = None) -> AsyncIterator[None]:
        """As long as the engine may take to start. One that takes longer hangs. Raises EngineReloadFailed."""
        timeout_s = start_timeout_s(model, self._settings)
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except TimeoutError as error:
            self._hangs = True
            raise EngineReloadFailed(f"the engine hung for {timeout_s:.0f} s while {doing}") from error

    async def batch(self, items: Sequence[BatchItem], sampling: BatchSampling) -> list[BatchOutput]:
        """Answers a batch below interactive traffic.

        Raises Unserved when the engine dies meanwhile, InvalidRequest where the model generates no text.
        """
        if self.task == "embed":
            name = self.client.model_config.served_model_name
            raise InvalidRequest(f"`{name}` makes embeddings and generates no text")
        try:
            return await run_batch(self.client, self._state, items, sampling, self.share)
        except ExceptionGroup as group:
            raise unserved(group) from group

    async def attach(self, model: ModelRef) -> AdapterFront:
        """Loads a LoRA adapter beside the model's own weights. Raises EngineStartFailed."""
        if self.task == "embed":
            raise EngineStartFailed(
                f"`{model.id}` is an adapter of a model that makes embeddings: those are not served"
            )
        try:
            async with self._deadline(f"it loaded the adapter `{model.id}`", model):
                lora = await add(self.client, model)
        except EngineReloadFailed as error:
            raise EngineStartFailed(str(error)) from error
        patches = ActivePatches.of(self._settings.patches)
        app = await _build_app(self.client, arguments_of(self._args, model), model, patches)
        front = AdapterFront(self.client, app, model, lora, self.share, self._log_file)
        if self._has_reasoning_parser:
            front.app = with_reasoning_content(app)
        return front

    async def shutdown(self) -> None:
        """Ends the engine's processes (seconds); returns when they are gone."""
        self._grammars.close()
        await asyncio.to_thread(_end, self.client, self._family)
        remove(self._segments)
        gc.collect()  # milliseconds: the engine's own objects, and what it was imported from is frozen


async def start(model: ModelRef, settings: EngineSettings, log: Path, placement: Placement | None = None) -> Engine:
    """Starts an engine beside whatever else runs in this process (about 15 s for a tiny model on two cores).

    `placement`: on those cards, with what it gives; None: on all that there are. `log` is where this process's standard
    output goes; it is read only to name a failure's cause.
    Raises EngineStartFailed.
    """
    own = placed(settings.with_overrides(model.engine), placement)
    settings = await asyncio.to_thread(with_parsers, own, Path(model.path), model.chat_template)
    patches = ActivePatches.of(settings.patches)
    mark = LogMark.now(log)
    starting = await asyncio.to_thread(Starting)
    timeout_s = start_timeout_s(model, settings)
    deadline_s = asyncio.get_running_loop().time() + timeout_s
    late = f"vLLM did not start `{model.id}` within {timeout_s:.0f} s (setting engine.start_timeout_s)"
    progress = Progress()
    client: AsyncLLM | None = None
    try:
        args, client = await in_time(
            partial(_start_blocking, model, settings, progress, placement),
            timeout_s,
            starting,
            end=_end_late,
            late=late,
        )
        assert client is not None
        try:
            async with asyncio.timeout_at(deadline_s):
                task = task_of(model.id, await client.get_supported_tasks())
                obstacles = await client.collective_rpc("stepserve_reload_obstacle")
                grammars = GrammarCheck(client, settings.structured, forked=are_forked(settings))
                if "grammar_trials" in patches:
                    try_grammars(client, grammars.check, grammars.is_probe)
                refusals = Refusals(partial(getattr, client.vllm_config.model_config, "served_model_name"))
                if "finite_answers" in patches:
                    refuse_not_finite(client.output_processor, refusals)
                app = await _build_app(client, args, model, patches)
                ranks = await client.collective_rpc("stepserve_pid")  # forks of one process are no core's children
                here = ranks[: client.vllm_config.parallel_config.local_world_size]  # the rest are other machines'
                family = await asyncio.to_thread(starting.family) | await asyncio.to_thread(family_of, here)
        except TimeoutError as error:
            raise EngineStartFailed(late) from error
    except BaseException as error:  # vLLM raises whatever its libraries raise, and argparse exits
        if client is not None:
            await asyncio.to_thread(_end, client, starting.family())
        if not isinstance(error, (Exception, SystemExit)) or isinstance(error, EngineStartFailed):
            raise
        await asyncio.to_thread(kill, starting.family())
        cause = str(error) if isinstance(error, EngineArgumentRefused) else mark.root_cause()
        cause = cause or f"{type(error).__name__}: {error}"
        raise EngineStartFailed(f"vLLM could not load `{model.id}`: {cause}") from error
    # As many again as are computed may wait inside, so that the engine never does.
    beside = settings.batch_beside_interactive or (_BESIDE_ON_CPU if current_platform.is_cpu() else _BESIDE_ON_GPU)
    share = BatchShare(2 * settings.max_num_seqs, beside)
    return Engine(
        client,
        app,
        args,
        share,
        grammars,
        progress,
        settings,
        family,
        log,
        refusals,
        task=task,
        has_reasoning_parser=settings.reasoning_parser is not None,
        reload_obstacle=next(filter(None, obstacles), None),
    )


def start_timeout_s(model: ModelRef | None, settings: EngineSettings) -> float:
    """How long an engine may take to start with this model, or to load it in place."""
    weights_bytes = model.signature.weights_bytes if model is not None and model.signature is not None else 0
    return settings.start_timeout_s + weights_bytes / _SLOWEST_DISK_BYTES_S


def _end_late(started: tuple[Namespace, AsyncLLM]) -> None:
    client = started[1]
    _end(client, family_of(process.pid for process in _processes(client)))


def _processes(client: AsyncLLM) -> list[Any]:
    resources: Any = getattr(client.engine_core, "resources", None)
    manager = resources.engine_manager if resources is not None else None
    return list(manager.processes) if manager is not None else []


def _end(client: AsyncLLM, family: Family) -> None:
    """Ends the engine's processes, which do not listen to the signal that vLLM sends them
    (gateway.engine.process.guard), and blocks until they are gone: by themselves, or killed after vLLM's time for that.
    """
    manager: Any = client.engine_core.resources.engine_manager
    if manager is not None:
        manager.manager_stopped.set()  # as vLLM does: they are meant to end
        for process in manager.processes:
            if process.is_alive():
                with suppress(ProcessLookupError):  # it may have ended just now
                    os.kill(process.pid, STOP_SIGNAL)
    client.shutdown()
    kill(family, grace_s=_FAMILY_ENDS_WITHIN_S)


def _start_blocking(
    model: ModelRef, settings: EngineSettings, progress: Progress, placement: Placement | None
) -> tuple[Namespace, AsyncLLM]:
    os.environ[GUARD_VARIABLE] = str(os.getpid())
    patches = ActivePatches.of(settings.patches)
    patches.announce()
    ensure_start_method()
    with visible(placement.devices if placement is not None else ()):
        args, config = engine_config(model, settings)
        client = AsyncLLM.from_vllm_config(
            config,
            usage_context=UsageContext.OPENAI_API_SERVER,
            stat_loggers=stat_loggers(progress),
        )
    patches.on_client(client)  # once: an adapter's app, made later, is another front of the same client
    return args, client


async def _build_app(client: AsyncLLM, args: Namespace, model: ModelRef, patches: ActivePatches) -> FastAPI:
    tasks = await client.get_supported_tasks()
    app = build_app(args, tasks, client.model_config)
    await init_app_state(client, app.state, args, tasks)
    await client.reset_mm_cache()
    set_fingerprint(app.state, model)
    patches.on_app(app)
    return app
