"""Which of vLLM's engine arguments may be given, and by whom. Whether they exist, and which values they take, is vLLM's
to say (gateway.engine.arguments).

An argument has vLLM's own name with underscores, as in `tensor_parallel_size`. The settings (`engine.args`) may give
every one that Stepserve does not set itself. A registration may give those that can neither name a file, a host or code
on this machine nor take a limit of the server away: PER_MODEL. One that is not listed there is the settings' alone, so
that an argument of a later vLLM is closed until somebody has looked at it.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, JsonValue

_LONGEST_JSON_CHARS = 16 * 1024

_FRONT = "the gateway answers HTTP, not vLLM's server"
_CHECKPOINT = "the registered checkpoint says it"
_PROOF = "proofs, evals and the watchdog need it as it is"
_ONE_ENGINE = "an engine here is one replica"
_NODES = "Stepserve's own nodes agree on it (settings nodes.…)"
_SLOT = "Stepserve names what it loads"
_WORKER = "Stepserve's own scheduling and workers need it"

# Of each argument that cannot be given, why not, or which setting it is instead.
OWNED: Mapping[str, str] = {
    **dict.fromkeys(("model", "served_model_name"), _SLOT),
    **dict.fromkeys(
        (
            "model_weights", "tokenizer", "tokenizer_revision", "revision", "code_revision", "hf_token",
            "hf_config_path", "download_dir", "config_format",
        ),
        _CHECKPOINT,
    ),
    **dict.fromkeys(
        (
            "host", "port", "uds", "api_key", "ssl_keyfile", "ssl_certfile", "middleware", "root_path",
            "allowed_origins", "allowed_methods", "allowed_headers", "allow_credentials", "uvicorn_log_level",
            "tokens_only", "shutdown_timeout", "headless", "api_server_count",
        ),
        _FRONT,
    ),
    **dict.fromkeys(("scheduling_policy", "scheduler_cls", "worker_cls", "worker_extension_cls"), _WORKER),
    **dict.fromkeys(("logprobs_mode", "disable_log_stats", "skip_tokenizer_init"), _PROOF),
    **dict.fromkeys(
        (
            "data_parallel_size", "data_parallel_rank", "data_parallel_start_rank", "data_parallel_size_local",
            "data_parallel_address", "data_parallel_rpc_port", "data_parallel_hybrid_lb", "data_parallel_external_lb",
            "data_parallel_multi_port_external_lb", "data_parallel_backend",
        ),
        _ONE_ENGINE,
    ),
    **dict.fromkeys(("node_rank", "master_addr", "master_port"), _NODES),
    "device_ids": "it is the field engine.devices of a registration, or the environment's CUDA_VISIBLE_DEVICES",
    "enable_lora": "it is the setting engine.max_loras",
    "lora_target_modules": "the checkpoint's matrices are (engine.max_loras)",
    "lora_modules": "adapters are registered",
    "chat_template": "it is the field chat_template of a registration, or the setting default_chat_template",
    "enable_auto_tool_choice": "it is the setting engine.tool_call_parser",
    "allowed_media_domains": "it is the setting engine.media_domains",
    "otlp_traces_endpoint": "it is the setting telemetry.traces_endpoint",
    "enable_log_requests": "it is the setting logs.requests",
    **{
        name: f"it is the setting engine.{name}"
        for name in (
            "max_model_len", "max_num_seqs", "max_num_batched_tokens", "dtype", "seed", "gpu_memory_utilization",
            "trust_remote_code", "attention_backend", "max_loras", "max_lora_rank", "tool_call_parser",
            "reasoning_parser",
        )
    },
}  # fmt: skip

# What a registration may give as well.
PER_MODEL = frozenset(
    {
        "tensor_parallel_size", "pipeline_parallel_size", "nnodes", "decode_context_parallel_size",
        "enable_expert_parallel", "max_parallel_loading_workers", "disable_custom_all_reduce", "quantization",
        "quantization_config", "hf_overrides", "max_logprobs", "disable_sliding_window", "enforce_eager", "runner",
        "convert", "model_impl", "override_generation_config", "tokenizer_mode", "language_model_only",
        "limit_mm_per_prompt", "mm_processor_kwargs", "mm_processor_cache_gb", "skip_mm_profiling",
        "video_pruning_rate", "pooler_config", "block_size", "kv_cache_dtype", "kv_cache_dtype_skip_layers",
        "kv_cache_memory_bytes", "enable_prefix_caching", "num_gpu_blocks_override", "mamba_cache_dtype",
        "mamba_ssm_cache_dtype", "mamba_block_size", "kv_offloading_size", "kv_sharing_fast_prefill", "cpu_offload_gb",
        "cpu_offload_params", "disable_hybrid_kv_cache_manager", "enable_chunked_prefill",
        "long_prefill_token_threshold", "disable_chunked_mm_input", "async_scheduling", "stream_interval",
        "speculative_config", "cudagraph_capture_sizes", "max_cudagraph_capture_size", "optimization_level",
        "performance_mode", "moe_backend", "linear_backend",
    }
)  # fmt: skip

# Of those, what changes what the same files answer.
CHANGES_ANSWERS = frozenset(
    {"quantization", "quantization_config", "hf_overrides", "model_class_overrides", "kv_cache_dtype",
     "disable_sliding_window", "runner", "convert"}
)  # fmt: skip


def refusal(args: Mapping[str, Any], *, per_model: bool = False) -> str | None:
    """Why one of the arguments cannot be given here, as a sentence that names it; None: as far as can be told without
    vLLM, all can.
    """
    for name, value in args.items():
        if name in OWNED:
            return f"{name} cannot be given: {OWNED[name]}"
        if value is None:
            return f"{name} is null: leave it out for vLLM's default"
        if per_model and name not in PER_MODEL:
            return f"{name} cannot be given with a model: the operator may give it, in the setting engine.args"
        if per_model and name == "speculative_config" and isinstance(value, dict) and "model" in value:
            return "speculative_config.model cannot be given with a model: the operator may, in the setting engine.args"
    return None


def parse(given: str) -> tuple[str, JsonValue]:
    """`key=value` of a command line: the value as JSON where it is some, else as text. Raises ValueError."""
    name, equals, value = given.partition("=")
    if not name or not equals or not value:
        raise ValueError(f"{given!r} is not key=value")
    try:
        parsed: JsonValue = json.loads(value)
    except ValueError:
        parsed = value
    return _normal(name), parsed


def _normal(name: str) -> str:
    return name.strip().removeprefix("--").replace("-", "_")


def _normalised(given: object) -> object:
    if not isinstance(given, dict):
        return given
    return {_normal(str(name)): given[name] for name in sorted(given, key=str)}


def _of_settings(args: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if (reason := refusal(args)) is not None:
        raise ValueError(reason)
    return args


def _of_model(args: dict[str, JsonValue]) -> dict[str, JsonValue]:
    if (reason := refusal(args, per_model=True)) is not None:
        raise ValueError(reason)
    if len(json.dumps(args)) > _LONGEST_JSON_CHARS:
        raise ValueError(f"more than {_LONGEST_JSON_CHARS} characters of JSON")
    return args


SettingsArgs = Annotated[dict[str, JsonValue], BeforeValidator(_normalised), AfterValidator(_of_settings)]
ModelArgs = Annotated[dict[str, JsonValue], BeforeValidator(_normalised), AfterValidator(_of_model)]


def ranks_of(args: Mapping[str, Any]) -> int:
    """How many processes of this machine compute a model that is started so; each other node has as many. Values that
    are not numbers count as 1.
    """
    return -(-all_ranks_of(args) // nodes_of(args))


def all_ranks_of(args: Mapping[str, Any]) -> int:
    """As `ranks_of`, on all nodes together."""
    return _number(args, "tensor_parallel_size") * _number(args, "pipeline_parallel_size")


def nodes_of(args: Mapping[str, Any]) -> int:
    """Over how many machines a model that is started so is spread."""
    return _number(args, "nnodes")


def _number(args: Mapping[str, Any], name: str) -> int:
    try:
        return max(1, int(args.get(name, 1)))
    except (TypeError, ValueError):
        return 1
