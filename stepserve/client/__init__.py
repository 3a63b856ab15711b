"""What a training box installs: the client of a Stepserve server, its trainer hooks, and the `stepserve` command."""

from stepserve.client.async_client import AsyncClient
from stepserve.client.callback import StepserveCallback
from stepserve.client.client import Client
from stepserve.client.errors import StepserveError
from stepserve.client.hook import CheckpointHook, Eval
from stepserve.client.probe import probe_of
from stepserve.client.push import push_checkpoint

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
