"""How vLLM is configured for a slot: the flags that anybody could give, and what it has no flag for."""

import os
from argparse import Namespace

from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser

from gateway.engine_capabilities import load_flags
from gateway.engine_lora import lora_flags
from gateway.engine_norms import norm_by_kernels
from gateway.engine_places import keep_places
from gateway.engine_processes import compute_where_it_schedules
from gateway.engine_steps import allow_large_steps
from gateway.engine_templates import bound_templates
from gateway.http.tracing import ENDPOINT_VARIABLE
from stepserve.contract import ACTIVE_ALIAS, ModelRef
from stepserve.settings import EngineSettings

_RENDERERS = 2  # threads that render templates and tokenize: one for long texts, one for short ones
# vLLM takes an empty list for "any host", also one of this machine's own network; no host is called this.
NO_MEDIA_DOMAIN = "none but those that INFERENCE_ENGINE__MEDIA_DOMAINS names"


def is_forked(settings: EngineSettings) -> bool:
    """Whether engines are forks of a process that has imported vLLM already (gateway.engine_processes)."""
    return current_platform.is_cpu() and settings.warm_start


def engine_config(model: ModelRef, settings: EngineSettings) -> tuple[Namespace, VllmConfig]:
    """The parsed flags and what vLLM makes of them. Raises what vLLM and argparse raise.

    On the CPU it leaves this process's VLLM_CPU_KVCACHE_SPACE as the settings say.
    """
    bound_templates()
    if current_platform.is_cpu():
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(settings.cpu_kv_cache_gib)
    parser = make_arg_parser(FlexibleArgumentParser())
    args = parser.parse_args([*serve_flags(model, settings), "--disable-fastapi-docs"])
    validate_parsed_serve_args(args)
    config = AsyncEngineArgs.from_cli_args(args).create_engine_config(UsageContext.OPENAI_API_SERVER)
    if config.model_config.runner_type != "pooling":  # there vLLM refuses it with pictures
        config.model_config.renderer_num_workers = _RENDERERS
    if is_forked(settings):
        compute_where_it_schedules(config)
    if current_platform.is_cpu():
        if settings.patches.cpu_norms:
            norm_by_kernels(config)
        if settings.patches.step_sizes and settings.max_num_batched_tokens is None:
            allow_large_steps(config)
    keep_places(config)
    return args, config


def serve_flags(model: ModelRef, settings: EngineSettings) -> list[str]:
    """The `vllm serve` flags of a slot; benchmarks start a bare `vllm serve` with the very same."""
    flags = [
        f"--model={model.path}",
        "--served-model-name", model.id, ACTIVE_ALIAS,
        f"--max-num-seqs={settings.max_num_seqs}",
        f"--dtype={settings.dtype}",
        f"--seed={settings.seed}",
        f"--gpu-memory-utilization={settings.gpu_memory_utilization}",
        "--scheduling-policy=priority",
        "--worker-extension-cls=gateway.engine_worker.StepserveWorker",
    ]  # fmt: skip
    flags += ["--allowed-media-domains", *(settings.media_domains or [NO_MEDIA_DOMAIN])]
    flags += load_flags(model)
    flags += lora_flags(model, settings)
    if settings.max_model_len is not None:
        flags.append(f"--max-model-len={settings.max_model_len}")
    if settings.max_num_batched_tokens is not None:
        flags.append(f"--max-num-batched-tokens={settings.max_num_batched_tokens}")
    if endpoint := os.environ.get(ENDPOINT_VARIABLE):
        flags.append(f"--otlp-traces-endpoint={endpoint}")
    if settings.tool_call_parser is not None:
        flags += ["--enable-auto-tool-choice", f"--tool-call-parser={settings.tool_call_parser}"]
    if settings.reasoning_parser is not None:
        flags.append(f"--reasoning-parser={settings.reasoning_parser}")
    if settings.trust_remote_code:
        flags.append("--trust-remote-code")
    if current_platform.is_cpu():
        flags.append("--enforce-eager")
    elif settings.attention_backend is not None:
        flags.append(f"--attention-backend={settings.attention_backend}")
    return flags
