"""Settings of models that are spread over several machines: where the other machines join this one."""

import socket
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Self

import psutil
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from stepserve.address import is_everywhere

DEFAULT_PORT = 8790
_SHORTEST_KEY = 16


class NodeSettings(BaseModel):
    """`address`: of this machine, on the network that the nodes compute over; without one no node can join.
    `interface`: the network interface with that address (default: auto-detected). `port`: where other machines join.
    `key`: a secret that all of them have. `wait_s`: how long the start of a model waits for nodes that are missing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    address: str | None = None
    interface: Annotated[str, Field(min_length=1)] | None = None
    port: Annotated[int, Field(ge=1, le=65535)] = DEFAULT_PORT
    key: SecretStr | None = None
    wait_s: Annotated[float, Field(gt=0, le=3600)] = 30.0

    @model_validator(mode="after")
    def _address_has_a_key(self) -> Self:
        if self.address is None:
            return self
        if self.key is None or len(self.key.get_secret_value()) < _SHORTEST_KEY:
            raise ValueError(f"nodes.address is set: set nodes.key too, {_SHORTEST_KEY} characters or more")
        return self

    @property
    def secret(self) -> str:
        return self.key.get_secret_value() if self.key is not None else ""


def network_environment(address: str, interface: str | None = None) -> dict[str, str]:
    """What vLLM, Gloo and NCCL read to use that address and no other; without it they guess, and may wait for minutes.

    Raises ValueError where this machine does not have the address, or has it on another interface.
    """
    if is_everywhere(address):
        raise ValueError(f"{address} stands for every address: name the one that the other nodes reach")
    found = interface_of(address)
    if interface is not None and interface != found:
        raise ValueError(f"{address} is an address of the interface {found}, not of {interface}")
    return {"VLLM_HOST_IP": address, "GLOO_SOCKET_IFNAME": found, "NCCL_SOCKET_IFNAME": found}


def interface_of(address: str, interfaces: Mapping[str, Iterable[Any]] | None = None) -> str:
    """Raises ValueError, naming the addresses that there are. `interfaces`: as psutil lists them; None: this
    machine's.
    """
    listed = psutil.net_if_addrs() if interfaces is None else interfaces
    there: list[str] = []
    for name, entries in listed.items():
        for entry in entries:
            if entry.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            if entry.address == address:
                return name
            there.append(f"{entry.address} ({name})")
    raise ValueError(f"{address} is not an address of this machine, which has {', '.join(there) or 'none'}")
