"""Where other machines join this one, as it is given in settings."""

import socket
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from stepserve.node_settings import NodeSettings, interface_of, network_environment
from stepserve.setting_origins import load
from stepserve.setting_sources import SettingsRefused

V4, V6, LINK = socket.AF_INET, socket.AF_INET6, socket.AF_PACKET
MACHINE = {
    "lo": [SimpleNamespace(family=V4, address="127.0.0.1"), SimpleNamespace(family=V6, address="::1")],
    "ib0": [SimpleNamespace(family=LINK, address="00:00"), SimpleNamespace(family=V4, address="10.1.0.7")],
}


def test_the_interface_is_the_one_with_the_address() -> None:
    assert interface_of("10.1.0.7", MACHINE) == "ib0"
    assert interface_of("::1", MACHINE) == "lo"


def test_an_address_that_the_machine_does_not_have_is_refused_with_those_that_it_has() -> None:
    with pytest.raises(ValueError, match=r"10.1.0.8 .* which has 127.0.0.1 \(lo\), ::1 \(lo\), 10.1.0.7 \(ib0\)"):
        interface_of("10.1.0.8", MACHINE)
    with pytest.raises(ValueError, match="stands for every address"):
        network_environment("0.0.0.0")


def test_vllm_gloo_and_nccl_are_told_of_one_network() -> None:
    assert network_environment("127.0.0.1") == {
        "VLLM_HOST_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }
    with pytest.raises(ValueError, match="an address of the interface lo, not of eth7"):
        network_environment("127.0.0.1", "eth7")


@pytest.mark.parametrize("key", [None, "short"])
def test_who_lets_machines_join_needs_a_key(key: str | None) -> None:
    with pytest.raises(ValidationError, match=r"nodes.address is set: set nodes.key too, 16 characters or more"):
        NodeSettings.model_validate({"address": "10.1.0.7", "key": key})


def test_replicas_of_one_machine_cannot_all_be_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("NODES__ADDRESS", "10.1.0.7"), ("NODES__KEY", "k" * 24), ("REPLICAS__COUNT", "2")):
        monkeypatch.setenv(f"INFERENCE_{name}", value)
    with pytest.raises(SettingsRefused, match="only one could be the head of nodes"):
        load()
