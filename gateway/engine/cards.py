"""An engine sees the cards that it was placed on and no others, and vLLM is told what it may take of them."""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from stepserve.contract import Placement
from stepserve.devices import VISIBLE_VARIABLE
from stepserve.engine_arguments import ranks_of
from stepserve.settings import EngineSettings

_ORDER_VARIABLE = "CUDA_DEVICE_ORDER"
_LOOKS_WITHIN_S = 20.0

_AT_START = {name: os.environ.get(name) for name in (VISIBLE_VARIABLE, _ORDER_VARIABLE)}

# Of this process's environment: engines that start and whoever counts cards take turns.
_environment = threading.Lock()


def placed(settings: EngineSettings, placement: Placement | None) -> EngineSettings:
    """What a model's engine is started with there. What somebody has set stays as it is."""
    if placement is None:
        return settings
    args = dict(settings.args)
    if placement.kv_cache_bytes is not None:
        args.setdefault("kv_cache_memory_bytes", placement.kv_cache_bytes)
    if ranks_of(args) < len(placement.devices):
        args["tensor_parallel_size"] = len(placement.devices)
    share = settings.gpu_memory_utilization or placement.share
    return settings.model_copy(update={"args": args, "gpu_memory_utilization": share})


@contextmanager
def visible(devices: Sequence[str]) -> Iterator[None]:
    """Processes that are started inside see these cards alone, by CUDA's names; without any, what this one sees."""
    if not devices:
        yield
        return
    with all_visible():
        os.environ.update({VISIBLE_VARIABLE: ",".join(devices), _ORDER_VARIABLE: "PCI_BUS_ID"})
        try:
            yield
        finally:
            for name, value in _AT_START.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


@contextmanager
def all_visible() -> Iterator[None]:
    """For who counts this machine's cards: waits while an engine that sees a part of them starts; not for ever, since a
    start may hang.
    """
    taken = _environment.acquire(timeout=_LOOKS_WITHIN_S)
    try:
        yield
    finally:
        if taken:
            _environment.release()
