"""Stepserve: serve every step of a training run.

A training box needs `from stepserve import Client, AsyncClient, StepserveCallback` and nothing else. The other modules
here are shared by every process of the server: the contract between gateway and control, settings, paths, supervision.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepserve.client import (
        AsyncClient,
        CheckpointHook,
        Client,
        Eval,
        StepserveCallback,
        StepserveError,
        probe_of,
        push_checkpoint,
    )

__version__ = "0.1.0"
__all__ = [
    "AsyncClient",
    "CheckpointHook",
    "Client",
    "Eval",
    "StepserveCallback",
    "StepserveError",
    "probe_of",
    "push_checkpoint",
]


def __getattr__(name: str) -> object:
    """The client is imported when it is asked for (PEP 562): gateway and control use this package without it."""
    if name in __all__:
        return getattr(import_module("stepserve.client"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
