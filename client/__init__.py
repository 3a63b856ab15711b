"""What a training box installs: the client of a Switchyard server, its trainer hooks, and the `switchyard` command."""

from client.async_client import AsyncSwitchyardClient
from client.callback import SwitchyardCallback
from client.client import SwitchyardClient
from client.errors import SwitchyardError
from client.hook import CheckpointHook, Eval
from client.probe import probe_of
from client.push import push_checkpoint

__all__ = [
    "AsyncSwitchyardClient",
    "CheckpointHook",
    "Eval",
    "SwitchyardCallback",
    "SwitchyardClient",
    "SwitchyardError",
    "probe_of",
    "push_checkpoint",
]
