"""What a training box installs: the client of a Switchyard server, its trainer hooks, and the `switchyard` command."""

from client.client import AsyncSwitchyardClient, SwitchyardClient
from client.errors import SwitchyardError
from client.push import push_checkpoint

__all__ = ["AsyncSwitchyardClient", "SwitchyardClient", "SwitchyardError", "push_checkpoint"]
