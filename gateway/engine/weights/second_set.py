"""In the worker: the tensors of another checkpoint, made ready for the running model while that goes on answering.

vLLM's reload in place reads, converts and packs with nobody being answered. Here the same code of vLLM's does all of it
on twins of the model's layers, which share everything with them but their tensors; taking over is then a copy of what
is not packed, and other references to what is.
"""

import copy
import inspect
from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any

import torch
from vllm.model_executor.model_loader.reload.layerwise import (
    LAYERWISE_INFO,
    finalize_layerwise_reload,
    get_layerwise_info,
    initialize_layerwise_reload,
)
from vllm.model_executor.model_loader.reload.meta import to_meta_tensor
from vllm.model_executor.model_loader.reload.sanitize import layer_ref_sentinel
from vllm.model_executor.model_loader.reload.types import LayerReloadingInfo
from vllm.v1.attention.backend import AttentionImplBase

_WRAPPED = "online_process_loader"  # what a reload puts around a parameter's loader
_REGISTRIES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")

Weights = Iterable[tuple[str, torch.Tensor]]


def obstacle_to_second_set(model: Any, config: Any) -> str | None:
    """Why no second set of this model's weights can be made beside the first, or None where it can.

    What a layer's processing changes in objects that it shares with its twin would change under whoever is answered.
    """
    for is_so, reason in (
        (config.lora_config is not None, "the engine takes adapters"),
        (not config.model_config.enforce_eager, "the model is compiled"),
        (config.model_config.quantization is not None, "the weights are quantised"),
    ):
        if is_so:
            return reason
    for layer in model.modules():
        name = type(layer).__name__
        if hasattr(getattr(layer, "quant_method", None), "moe_kernel") or _absorbs(getattr(layer, "impl", None)):
            return f"a layer of type {name} keeps weights in its kernel"
        if any(_holds_layers(value) for key, value in layer.__dict__.items() if key not in _REGISTRIES):
            return f"a layer of type {name} keeps others where they are not seen"
    return None


def _absorbs(attention: Any) -> bool:
    ours = getattr(type(attention), "process_weights_after_loading", None)
    return attention is not None and ours is not AttentionImplBase.process_weights_after_loading


def _holds_layers(value: Any) -> bool:
    each = value if isinstance(value, (list, tuple)) else (value,)
    return any(isinstance(one, torch.nn.Module) for one in each)


class SecondSet:
    """`fill` may run in a thread of its own while the model answers; `take_over` while it does not."""

    def __init__(self, model: Any) -> None:
        """Raises nothing of its own; copies what is not packed, so that layers without new tensors keep theirs."""
        self._model = model
        self._twins: dict[torch.nn.Module, torch.nn.Module] = {}
        self._tensors: dict[int, torch.Tensor] = {}
        self._twin = self._twin_of(model)

    def fill(self, weights: Weights, model_config: Any, repack: Callable[[Any], None]) -> None:
        """Raises what vLLM raises where a file is not what it should be; the running model is as it was."""
        with torch.no_grad():
            initialize_layerwise_reload(self._twin)
            self._twin.load_weights(weights)
            finalize_layerwise_reload(self._twin, model_config)
            repack(self._twin)

    def take_over(self) -> None:
        """From here on the running model computes with these; there is no way back. `release` is to follow."""
        done: set[int] = set()
        with torch.no_grad():
            for layer, twin in self._twins.items():
                for mine, theirs in ((layer._parameters, twin._parameters), (layer._buffers, twin._buffers)):
                    for name, tensor in mine.items():
                        other = theirs.get(name)
                        if tensor is None or other is None or other is tensor or id(tensor) in done:
                            continue
                        tensor.data.copy_(other)
                        done.add(id(tensor))
                for name, value in twin.__dict__.items():
                    if name not in _REGISTRIES and layer.__dict__.get(name) is not value:
                        layer.__dict__[name] = value

    def release(self) -> None:
        """Gives back the memory of whatever was not taken over, at once: twins and their tensors name each other."""
        for twin in self._twins.values():
            LAYERWISE_INFO.pop(twin, None)
            twin.__dict__.clear()
        self._twins.clear()
        self._tensors.clear()

    def _twin_of(self, layer: torch.nn.Module) -> torch.nn.Module:
        if layer in self._twins:
            return self._twins[layer]
        twin: torch.nn.Module = object.__new__(type(layer))
        self._twins[layer] = twin
        twin.__dict__.update(layer.__dict__)
        info = get_layerwise_info(layer)
        parameters, buffers = info.restore_metadata
        metadata = (
            {name: _bound_to(to_meta_tensor(tensor), layer, twin) for name, tensor in parameters.items()},
            {name: _bound_to(to_meta_tensor(tensor), layer, twin) for name, tensor in buffers.items()},
        )
        LAYERWISE_INFO[twin] = LayerReloadingInfo(restore_metadata=metadata, restore_device=info.restore_device)
        shared = layer._non_persistent_buffers_set
        twin.__dict__["_parameters"] = {
            name: tensor if tensor is None else _bound_to(self._copy_of(tensor), layer, twin)
            for name, tensor in layer._parameters.items()
        }
        twin.__dict__["_buffers"] = {
            name: tensor if tensor is None or name in shared else self._copy_of(tensor)
            for name, tensor in layer._buffers.items()
        }
        twin.__dict__["_non_persistent_buffers_set"] = set(shared)
        twin.__dict__["_modules"] = {
            name: child if child is None else self._twin_of(child) for name, child in layer._modules.items()
        }
        return twin

    def _copy_of(self, tensor: torch.Tensor) -> torch.Tensor:
        """One of each, also of those that several layers have, as a tied head does."""
        if id(tensor) not in self._tensors:
            made = tensor.detach().clone()
            made.__class__ = tensor.__class__
            made.__dict__ = tensor.__dict__.copy()
            self._tensors[id(tensor)] = made
        return self._tensors[id(tensor)]


def _bound_to(tensor: torch.Tensor, layer: torch.nn.Module, twin: torch.nn.Module) -> torch.Tensor:
    """The tensor, whose loaders are the twin's, and none that an earlier reload has wrapped around them."""
    for name, value in tensor.__dict__.items():
        loader = inspect.unwrap(value, stop=_is_own) if callable(value) else value
        if isinstance(loader, MethodType) and (loader.__self__ is layer or loader.__self__ is layer_ref_sentinel):
            loader = loader.__func__.__get__(twin)
        tensor.__dict__[name] = loader
    return tensor


def _is_own(loader: Any) -> bool:
    return getattr(loader, "__name__", None) != _WRAPPED


def with_path(model_config: Any, path: str) -> Any:
    """The configuration of the same model from other files, as vLLM's reload changes it."""
    other = copy.copy(model_config)
    other.model, other.model_weights, other.revision = path, "", None
    return other
