"""What this vLLM can do on this device, asked of vLLM itself; nothing is loaded for it."""

from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from vllm import ModelRegistry
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
from vllm.platforms import current_platform
from vllm.transformers_utils.config import _CONFIG_REGISTRY

from stepserve.contract import Capabilities, ModelRef, Quantize

# Quantising at load, by vLLM's names. Eight bits: weights per output channel, activations per token, the form that the
# CPU's kernels have too. Four bits in blocks of 32 need a kernel that only CUDA has.
_EIGHT_BITS = "fp8_per_channel"
_FOUR_BITS = "mxfp4"
_FIRST_WITH_FP8 = 89  # compute capability: Ada
_FIRST_WITH_MARLIN_FP4 = 80  # Ampere

_TRANSFORMERS_MODULE = "vllm.model_executor.models.transformers"


def capabilities() -> Capabilities:
    """Imports vLLM (seconds), so not for the event loop."""
    models = ModelRegistry.models.items()
    own = [name for name, model in models if not getattr(model, "module_name", "").startswith(_TRANSFORMERS_MODULE)]
    return Capabilities(
        device=current_platform.device_type,
        memory_bytes=current_platform.get_device_total_memory(),
        architectures=sorted(own),
        model_types=sorted({*CONFIG_MAPPING_NAMES, *_CONFIG_REGISTRY}),
        quantize=quantize_methods(),
        prequantized=sorted(current_platform.supported_quantization or QUANTIZATION_METHODS),
    )


def quantize_methods() -> dict[Quantize, str]:
    """What can be done at load, and vLLM's name for it."""
    methods: dict[Quantize, str] = {"fp16": "float16"}
    if current_platform.is_cpu():
        methods["q8"] = _EIGHT_BITS
    elif current_platform.is_cuda():
        if current_platform.has_device_capability(_FIRST_WITH_FP8):
            methods["q8"] = _EIGHT_BITS
        if current_platform.has_device_capability(_FIRST_WITH_MARLIN_FP4):
            methods["q4"] = _FOUR_BITS
    return methods


def load_flags(model: ModelRef) -> list[str]:
    """The `vllm serve` flags that load the model as it was registered. Raises ValueError for what is impossible."""
    if model.quantize is None:
        return []
    method = quantize_methods().get(model.quantize)
    if method is None:
        raise ValueError(f"{model.quantize} is not possible on {current_platform.device_type}")
    return [f"--dtype={method}"] if model.quantize == "fp16" else [f"--quantization={method}"]
