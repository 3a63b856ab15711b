"""How one machine is shared out among gateways, and which settings each of them then reads."""

import os
from pathlib import Path

import pytest
import trustme

from stepserve.placement import Device
from stepserve.replicas import (
    Replica,
    ReplicasRefused,
    Share,
    card_groups,
    core_groups,
    environment_of,
    environment_of_share,
    replicas_of,
)
from stepserve.setting_origins import load

H100 = [Device(str(number), 80, "H100") for number in range(4)]
MIXED = [Device("0", 80, "H100"), Device("1", 24, "L4"), Device("2", 80, "H100"), Device("3", 24, "L4")]


def test_cards_are_shared_out_and_those_of_a_replica_are_of_one_kind() -> None:
    assert card_groups(H100, 2, 1) == [("0",), ("1",)]
    assert card_groups(H100, 2, 2) == [("0", "1"), ("2", "3")]
    assert card_groups(MIXED, 2, 2) == [("0", "2"), ("1", "3")]
    with pytest.raises(ReplicasRefused, match=r"2 replicas of 3 cards do not fit on 4 cards: 1 would\."):
        card_groups(H100, 2, 3)
    with pytest.raises(ReplicasRefused, match=r"of 2 cards of one kind \(H100, L4\) do not fit on 4 cards: 2 would"):
        card_groups(MIXED, 3, 2)


def test_all_cores_are_shared_out() -> None:
    assert core_groups([0, 8, 1, 9, 2], 2, 1) == [(0, 8, 1), (9, 2)]
    assert core_groups([3], 1, 1) == [(3,)]
    with pytest.raises(ReplicasRefused, match="2 replicas need 4 cores, and there are 3"):
        core_groups([0, 1, 2], 2, 2)


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Of a server whose settings lie in its own base directory."""
    issued = trustme.CA().issue_cert("box.example.org")
    (tmp_path / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    (tmp_path / "key.pem").write_bytes(issued.private_key_pem.bytes())
    base = tmp_path / "base"
    (base / "config").mkdir(parents=True)
    (base / "templates").mkdir()
    (base / "templates" / "mine.jinja").write_text("{{ messages }}")
    (base / "config" / "stepserve.toml").write_text(
        f'host = "0.0.0.0"\nport = 9000\nmodels_dir = "{tmp_path}/models"\ndefault_chat_template = "mine"\n'
        f'[tls]\ncert_file = "{tmp_path}/cert.pem"\nkey_file = "{tmp_path}/key.pem"\n'
        '[engine]\nmax_num_seqs = 7\n[replicas]\ncount = 2\n[fleet]\nzone = "rack"\nlease_s = 3\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INFERENCE_BASE_DIR", str(base))
    monkeypatch.setenv("INFERENCE_TLS__KEY_FILE", str(tmp_path / "key.pem"))
    return base


def test_a_member_has_the_heads_settings_but_for_its_place(monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    head = load()
    replica = Replica("replica-2", 9001, Share(cards=("1",)), base / "replicas" / "replica-2")
    environment = environment_of(replica, head, os.environ)
    for name in [name for name in os.environ if name not in environment]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    there = load()
    assert (there.layout.base, there.host, there.port) == (base / "replicas" / "replica-2", "127.0.0.1", 9001)
    assert there.layout.models.is_relative_to(there.layout.base)
    assert (there.tls.on, there.ui, there.replicas.count) == (False, False, 1)
    fleet = there.fleet
    assert (fleet.control, fleet.advertise) == ("https://127.0.0.1:9000", "http://127.0.0.1:9001")
    assert fleet.control_socket == head.layout.control_socket
    assert (fleet.id, fleet.zone, fleet.lease_s) == ("replica-2", "rack", 3)
    assert (there.engine.max_num_seqs, there.default_template_text) == (7, "{{ messages }}")
    assert (environment["CUDA_VISIBLE_DEVICES"], environment["CUDA_DEVICE_ORDER"]) == ("1", "PCI_BUS_ID")


def test_cards_that_somebody_left_to_the_server_keep_their_names_and_order() -> None:
    given = {"CUDA_VISIBLE_DEVICES": "MIG-a,MIG-b"}
    assert environment_of_share(Share(cards=("MIG-b",)), given) == {"CUDA_VISIBLE_DEVICES": "MIG-b"}
    assert environment_of_share(Share(cores=(1,)), given) == given


@pytest.mark.parametrize(
    ("first_port", "said"),
    [(8765, "8765 to 8765 include port 8765"), (8501, "8501 to 8501 include ui_port 8501")],
)
def test_ports_that_are_taken_by_the_server_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, first_port: int, said: str
) -> None:
    monkeypatch.setenv("INFERENCE_BASE_DIR", str(tmp_path))
    monkeypatch.setenv("INFERENCE_REPLICAS__COUNT", "2")
    monkeypatch.setenv("INFERENCE_REPLICAS__FIRST_PORT", str(first_port))
    with pytest.raises(ReplicasRefused, match=said):
        replicas_of(load(), {})


def test_one_gateway_takes_what_it_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFERENCE_BASE_DIR", str(tmp_path))
    found = replicas_of(load(), {})
    assert (found.head, found.members) == (None, ())
