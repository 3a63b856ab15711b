"""Each patch is still needed: the vLLM that is installed, unchanged, lacks what the patch brings.

A test that fails here means that vLLM has changed. If it now does by itself what the patch is for, delete the patch,
its setting and its probe; else have the probe look at how the lack shows now.
"""

import asyncio
import inspect
import sys
import warnings
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY, Gauge

from gateway.engine.patches.patch import find
from gateway.engine.patches.registry import PATCHES

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch warns of itself while vLLM imports it
    import torch
    from vllm import envs

    from tests.unit.gateway.engine.patches.test_own_logprobs import rows

Probe = Callable[[], Any]
_probes: dict[str, Probe] = {}


def lacks(name: str) -> Callable[[Probe], Probe]:
    """Marks a function that raises AssertionError once vLLM does without the patch of that name."""

    def known(probe: Probe) -> Probe:
        _probes[name] = probe
        return probe

    return known


def source(target: str) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return inspect.getsource(find(target))


@lacks("prefill")
def _() -> None:
    module = find("vllm.entrypoints.anthropic.serving:AnthropicServingMessages").__module__
    assert "continue_final_message" not in inspect.getsource(sys.modules[module])


@lacks("set_aside")
def _() -> None:
    scheduler = find("vllm.v1.core.sched.scheduler:Scheduler")
    module = sys.modules[scheduler.__module__]
    assert not any("aside" in name for name in dir(scheduler)), "a way to keep requests out of their turn"
    assert "deferred_waiting" in inspect.getsource(module), "what is taken out has a place here as well"


@lacks("environment")
def _() -> None:
    names = {
        "VLLM_NO_USAGE_STATS",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS",
        "VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS",
        "VLLM_MAX_N_SEQUENCES",
        "VLLM_MAX_COMPLETION_PROMPTS",
        "VLLM_CPU_KVCACHE_SPACE",
    }
    assert names <= envs.environment_variables.keys() | {"VLLM_CPU_KVCACHE_SPACE"}
    assert '"VLLM_CPU_KVCACHE_SPACE"' in source("vllm.platforms.cpu")


@lacks("process_guard")
def _() -> None:
    core = source("vllm.v1.engine.core:EngineCoreProc.run_engine_core")
    assert "signal.signal(signal.SIGTERM, signal_handler)" in core, "it obeys a SIGTERM"
    assert "signal.signal(signal.SIGINT, signal_handler)" in core, "SIGINT ends it as well"
    assert "prctl" not in core, "it outlives its parent"


@lacks("surviving_server")
def _() -> None:
    server = SimpleNamespace(should_exit=False)
    find("vllm.entrypoints.launchers.launcher:terminate_if_errored")(
        server, SimpleNamespace(errored=True, is_running=False)
    )
    assert server.should_exit, "a dead engine ends the server"


@lacks("lasting_metrics")
def _() -> None:
    living = Gauge("vllm:of_an_engine_that_serves", "-")
    find("vllm.v1.metrics.prometheus:unregister_vllm_metrics")()
    assert living not in REGISTRY._collector_to_names
    assert "unregister_vllm_metrics()" in source("vllm.v1.metrics.loggers:PrometheusStatLogger.__init__")


@lacks("model_identity")
def _() -> None:
    models = find("vllm.entrypoints.openai.models.serving:OpenAIServingModels")
    assert not [name for name in vars(models) if "rename" in name or "set_base_model" in name]
    assert "digest" not in source("vllm.entrypoints.serve.utils.fingerprint:get_system_fingerprint").replace(
        "hexdigest", ""
    )


@lacks("metered_outputs")
def _() -> None:
    parameters = inspect.signature(find("vllm.v1.engine.async_llm:AsyncLLM.generate")).parameters
    assert not [name for name in parameters if "callback" in name or "usage" in name or "meter" in name]


@lacks("adapter_front")
def _() -> None:
    serving = object.__new__(find("vllm.entrypoints.serve.engine.serving:BaseServing"))
    serving.models = SimpleNamespace(lora_requests={"adapter": "it"})
    serving._is_model_supported = lambda _name: True
    assert serving._maybe_get_adapters(SimpleNamespace(model="active")) is None, "a name of the base's has no adapter"


@lacks("rewindable_generators")
def _() -> None:
    with pytest.raises(RuntimeError, match="offset"):
        torch.Generator("cpu").set_offset(0)
    assert "gen.set_offset(" in source("vllm.v1.worker.gpu_model_runner:GPUModelRunner._bookkeeping_sync")


@lacks("own_logprobs")
def _() -> None:
    alone, beside = rows(2, None), rows(2, {1: [3]})
    assert len(beside[0]) < len(alone[0]), "the row beside one that names tokens has lost some"


@lacks("experts_without_lora")
def _() -> None:
    assert "is_lora_enabled=vllm_config.lora_config is not None" in source("vllm.model_executor.layers.fused_moe.layer")
    assert "is_lora_enabled" in source("vllm.model_executor.layers.fused_moe.oracle.unquantized")


@lacks("forked_engines")
def _() -> None:
    context = find("vllm.utils.system_utils:get_mp_context")()
    assert context.get_start_method() in ("spawn", "fork")


@lacks("one_process")
def _() -> None:
    platform = source("vllm.platforms.cpu:CpuPlatform.check_and_update_config")
    assert 'and parallel_config.distributed_executor_backend == "uni"' in platform
    assert 'parallel_config.distributed_executor_backend = "mp"' in platform


@lacks("cpu_norms")
def _() -> None:
    cpu = find("vllm.platforms.cpu:CpuPlatform")
    priority = cpu.get_default_ir_op_priority(SimpleNamespace(compilation_config=SimpleNamespace()))
    assert {*priority.rms_norm, *priority.fused_add_rms_norm} <= {"native"}


@lacks("no_compiler")
def _() -> None:
    assert "@torch.compile" in source("vllm.v1.sample.ops.logprobs:batched_count_greater_than")


@lacks("step_sizes")
def _() -> None:
    usage = find("vllm.usage.usage_lib:UsageContext")
    most, _most_sequences = find("vllm.engine.arg_utils:EngineArgs.get_batch_defaults")(1)
    assert most[usage.LLM_CLASS] > most[usage.OPENAI_API_SERVER], "its server takes smaller steps for everybody"
    assert "token_budget = self.max_num_scheduled_tokens" in source("vllm.v1.core.sched.scheduler:Scheduler.schedule")


@lacks("probe_places")
def _() -> None:
    schedule = source("vllm.v1.core.sched.scheduler:Scheduler.schedule")
    assert "if num_running >= self.max_num_active_reqs:" in schedule, "whoever comes to a full engine waits"


@lacks("whole_answers")
def _() -> None:
    update = source("vllm.v1.core.sched.scheduler:Scheduler.update_from_output")
    assert "output_kind" not in update
    assert "FINAL_ONLY" not in update


@lacks("finite_answers")
def _() -> None:
    assert "num_nans_in_logits" not in source("vllm.v1.engine.output_processor"), "nobody asks for the count"
    row = torch.tensor([[0.0, float("inf")]])
    assert int(find("vllm.v1.worker.gpu_model_runner:count_nans_per_row")(row)) == 0, "infinity is no fault to it"


@lacks("clean_blocks")
def _() -> None:
    config = find("vllm.v1.kv_cache_interface:KVCacheConfig")
    full = find("vllm.v1.kv_cache_interface:FullAttentionSpec")(
        block_size=4, num_kv_heads=1, head_size=8, dtype=torch.bfloat16
    )
    group = find("vllm.v1.kv_cache_interface:KVCacheGroupSpec")(["a layer"], full)
    assert not config(num_blocks=1, kv_cache_tensors=[], kv_cache_groups=[group]).needs_kv_cache_zeroing


@lacks("fewer_lookups")
def _() -> None:
    base = find("vllm.renderers.base:BaseRenderer")
    each: list[str] = []
    renderer = SimpleNamespace(tokenize_prompt=lambda prompt, _params: each.append(prompt))
    base.tokenize_prompts(renderer, ["a", "b"], None)
    assert each == ["a", "b"], "prompts are tokenized one by one"

    class Tokenizer:
        looked = 0

        @property
        def eos_token_id(self) -> int:
            self.looked += 1
            return 0

    tokenizer = Tokenizer()
    for _ in range(2):
        base.get_eos_token_id(SimpleNamespace(tokenizer=tokenizer))
    assert tokenizer.looked == 2


@lacks("long_texts_in_turn")
def _() -> None:
    begun: list[str] = []

    async def tokenized(prompt: str, _params: Any) -> None:
        begun.append(prompt)
        await asyncio.Event().wait()

    async def run() -> None:
        base = find("vllm.renderers.base:BaseRenderer")
        renderer = SimpleNamespace(tokenize_prompt_async=tokenized)
        asked = asyncio.ensure_future(base.tokenize_prompts_async(renderer, ["long", "longer"], None))
        while not begun:
            await asyncio.sleep(0)
        assert begun == ["long", "longer"], "all texts wait for the same threads at once"
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

    asyncio.run(run())


@lacks("bounded_templates")
def _() -> None:
    assert "jinja2.sandbox.ImmutableSandboxedEnvironment(" in source("vllm.renderers.hf")
    transformers = source("transformers.utils.chat_template_utils")
    assert "ImmutableSandboxedEnvironment(" in transformers


@lacks("grammar_trials")
def _() -> None:
    begin = source("vllm.v1.structured_output:StructuredOutputManager.grammar_init")
    assert "self.executor.submit(self._create_grammar, request)" in begin, "in a thread, which nothing can stop"
    assert "timeout" not in begin
    assert "compile" not in source("vllm.v1.engine.async_llm:AsyncLLM.add_request")


@lacks("grammar_compiling")
def _() -> None:
    asked: list[str] = []
    first = SimpleNamespace(compile_grammar=lambda _kind, text, stop_token_ids: asked.append(text))
    request = SimpleNamespace(
        sampling_params=SimpleNamespace(
            structured_outputs=SimpleNamespace(_backend="guidance"), all_stop_token_ids=set()
        ),
        structured_output_request=SimpleNamespace(structured_output_key=("regex", "a+")),
        request_id="-",
    )
    manager = find("vllm.v1.structured_output:StructuredOutputManager")
    manager._create_grammar(SimpleNamespace(backend=first), request)
    assert asked == ["a+"], "the first request's back end compiles what was checked for another"


@lacks("replies_of_all_ranks")
def _() -> None:
    executor_of = find("vllm.v1.executor.multiproc_executor:MultiprocExecutor")
    status = find("vllm.v1.executor.multiproc_executor:WorkerProc").ResponseStatus
    waiting = [[(status.FAILURE, "no")], [(status.SUCCESS, "the second rank's reply")]]
    executor = object.__new__(executor_of)
    executor.is_failed = False
    executor.futures_queue = deque()
    executor.rpc_broadcast_mq = SimpleNamespace(enqueue=lambda _: None)
    executor.response_mqs = [SimpleNamespace(dequeue=lambda timeout, each=each: each.pop()) for each in waiting]
    with pytest.raises(RuntimeError):
        executor.collective_rpc("anything")
    assert waiting[1], "it was left to be taken for the reply to the next call"


@lacks("grammar_budget")
def _() -> None:
    for name in ("grammar_bitmask", "accept_tokens"):
        assert "time" not in source(f"vllm.v1.structured_output:StructuredOutputManager.{name}")


@lacks("fewer_layers")
def _() -> None:
    layers = source("vllm.entrypoints.serve.middleware.register:init_entrypoints_middleware")
    assert "    app.add_middleware(\n        CORSMiddleware," in layers, "whatever the flags say"
    assert "app.add_middleware(ScalingMiddleware)" in layers


@lacks("short_routes")
def _() -> None:
    for kind in ("chat_completion", "completion"):
        routes = find(f"vllm.entrypoints.openai.{kind}.api_router:router").routes
        assert any(route.dependant.dependencies for route in routes), "FastAPI resolves dependencies for each request"


@pytest.mark.parametrize("name", [patch.name for patch in PATCHES])
def test_vllm_lacks_what_the_patch_brings(name: str) -> None:
    patch = next(each for each in PATCHES if each.name == name)
    try:
        _probes[name]()
    except AssertionError as error:
        pytest.fail(
            f"vLLM no longer lacks what gateway/engine/patches/{name}.py brings, or it shows otherwise ({error})."
            f" The patch can go when: {patch.goes_when}"
        )
