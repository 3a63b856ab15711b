"""Can other machines join this one, to compute a share of its models?"""

import socket

from stepserve.base_lock import BaseInUse, hold
from stepserve.engine_arguments import nodes_of
from stepserve.machine.trouble import Trouble
from stepserve.node_settings import network_environment
from stepserve.settings import Settings


def joining(settings: Settings) -> str:
    """Changes nothing."""
    nodes = settings.nodes
    if nodes.address is None:
        raise Trouble("engine.args has nnodes and no node can join: set nodes.address and nodes.key")
    try:
        interface = network_environment(nodes.address, nodes.interface)["GLOO_SOCKET_IFNAME"]
    except ValueError as error:
        raise Trouble(f"nodes.address: {error}") from None
    where = f"{nodes.address}:{nodes.port} ({interface})"
    try:
        with hold(settings.layout):
            pass
    except BaseInUse:
        return f"{where}; a server runs here"
    except OSError:
        pass  # said by the check of the base directory
    try:
        with socket.create_server((nodes.address, nodes.port), family=_family(nodes.address)):
            return f"{where} is free"
    except OSError as error:
        raise Trouble(f"{where} cannot be listened to ({error.strerror}): set nodes.port") from None


def are_used(settings: Settings) -> bool:
    return settings.nodes.address is not None or nodes_of(settings.engine.args) > 1


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET
