"""How vLLM is configured for a slot: the flags that anybody could give, and what it has no flag for."""

import os
from argparse import Namespace

from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext

from gateway.engine.arguments import check_ranks, flags_of, parser
from gateway.engine.capabilities import load_flags
from gateway.engine.lora import lora_flags
from gateway.engine.patches.registry import ActivePatches
from gateway.engine.versions import validate_parsed_serve_args
from gateway.http.tracing import ENDPOINT_VARIABLE
from stepserve.contract import ACTIVE_ALIAS, ModelRef
from stepserve.settings import EngineSettings

WORKER_EXTENSION = "gateway.engine.process.worker.StepserveWorker"

# vLLM takes an empty list for "any host", also one of this machine's own network; no host is called this.
NO_MEDIA_DOMAIN = "none but those that INFERENCE_ENGINE__MEDIA_DOMAINS names"


def engine_config(model: ModelRef, settings: EngineSettings) -> tuple[Namespace, VllmConfig]:
    """The parsed flags and what vLLM makes of them. Raises EngineArgumentRefused, and what vLLM raises.

    Makes those changes to vLLM in this process that come before; see gateway.engine.patches.
    """
    check_ranks(settings.args)
    patches = ActivePatches.of(settings.patches)
    patches.before_engine(settings)
    args = parser().parse_args([*serve_flags(model, settings), "--disable-fastapi-docs", "--enable-scale-out"])
    validate_parsed_serve_args(args)
    args.chat_template = model.chat_template  # not as a flag, which would be looked for as a file's name first
    config = AsyncEngineArgs.from_cli_args(args).create_engine_config(UsageContext.OPENAI_API_SERVER)
    patches.on_config(config, settings)
    return args, config


def serve_flags(model: ModelRef, settings: EngineSettings) -> list[str]:
    """The `vllm serve` flags of a slot; benchmarks start a bare `vllm serve` with the very same."""
    flags = [
        f"--model={model.path}",
        "--served-model-name", model.id, ACTIVE_ALIAS,
        f"--max-num-seqs={settings.max_num_seqs}",
        f"--dtype={settings.dtype}",
        f"--seed={settings.seed}",
        "--scheduling-policy=priority",
        f"--worker-extension-cls={WORKER_EXTENSION}",
    ]  # fmt: skip
    flags += ["--allowed-media-domains", *(settings.media_domains or [NO_MEDIA_DOMAIN])]
    flags += load_flags(model)
    flags += lora_flags(model, settings)
    if settings.gpu_memory_utilization is not None:
        flags.append(f"--gpu-memory-utilization={settings.gpu_memory_utilization}")
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
    return [*flags, *flags_of(settings.args)]
