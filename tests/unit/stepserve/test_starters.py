"""What a gateway on another machine is started with, and where it finds the server."""

from pathlib import Path

import pytest

from stepserve.setting_origins import load
from stepserve.starters.order import order_of
from stepserve.starters.placing import ClusterRefused, bundle_of, control_url

URL = "http://192.0.2.1:8765"


def test_an_order_has_the_servers_settings_and_the_nodes_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = {
        "BASE_DIR": str(tmp_path / "head"),
        "ENGINE__ARGS": '{"tensor_parallel_size": 2}',
        "FLASH_ATTENTION": "false",
        "DRAIN_TIMEOUT_S": "7",
        "DATABASE_URL": "sqlite+aiosqlite:////elsewhere/db.sqlite",
        "HF_TOKEN": "hf_secret",
        "FLEET__LABELS": '{"tier": "fast"}',
        "ACCESS__MODE": "open",
    }
    for name, value in given.items():
        monkeypatch.setenv(f"INFERENCE_{name}", value)
    order = order_of(load(), "replica-1", URL, "sy_key")
    node = {"PATH": "/bin", "INFERENCE_BASE_DIR": str(tmp_path / "disk"), "INFERENCE_DRAIN_TIMEOUT_S": "99"}
    environment = order.environment(node, "192.0.2.7", 4321)
    assert environment["PATH"] == "/bin"
    assert not [name for name in environment if "DATABASE" in name or "HF_TOKEN" in name], "the server's alone"

    for name in given:
        monkeypatch.delenv(f"INFERENCE_{name}")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    there = load()
    assert there.layout.base == tmp_path / "disk" / "replicas" / "replica-1"
    assert (there.host, there.port, there.ui, there.flash_attention) == ("192.0.2.7", 4321, False, False)
    assert (there.engine.args, there.drain_timeout_s) == ({"tensor_parallel_size": 2}, 7.0)
    assert (there.fleet.control, there.fleet.id, there.fleet.labels) == (URL, "replica-1", {"tier": "fast"})
    assert there.fleet.api_key is not None
    assert there.fleet.api_key.get_secret_value() == "sy_key"
    assert there.access.mode == "open"
    assert order.environment({}, "192.0.2.7", 1)["INFERENCE_BASE_DIR"] == f"{tmp_path}/head/replicas/replica-1"


@pytest.mark.parametrize(
    ("host", "nodes", "url"),
    [
        ("0.0.0.0", {"192.0.2.1", "192.0.2.2"}, "http://192.0.2.1:8765"),
        ("10.0.0.1", {"192.0.2.2"}, "http://10.0.0.1:8765"),
        ("127.0.0.1", {"192.0.2.1"}, "http://127.0.0.1:8765"),
    ],
)
def test_where_the_nodes_find_the_server(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, host: str, nodes: set[str], url: str
) -> None:
    monkeypatch.setenv("INFERENCE_BASE_DIR", str(tmp_path))
    monkeypatch.setenv("INFERENCE_HOST", host)
    assert control_url(load(), "192.0.2.1", nodes) == url


def test_a_server_that_other_nodes_cannot_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INFERENCE_BASE_DIR", str(tmp_path))
    with pytest.raises(ClusterRefused, match=r"listens on 127\.0\.0\.1 alone, and replicas on 192\.0\.2\.2 could not"):
        control_url(load(), "192.0.2.1", {"192.0.2.1", "192.0.2.2"})
    monkeypatch.setenv("INFERENCE_FLEET__ADVERTISE", "https://head.example.org")
    assert control_url(load(), "192.0.2.1", {"192.0.2.2"}) == "https://head.example.org"


def test_what_a_replica_takes_of_a_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INFERENCE_BASE_DIR", str(tmp_path))
    monkeypatch.setenv("INFERENCE_REPLICAS__GPUS_EACH", "2")
    assert bundle_of(load()) == {"CPU": 1.0, "GPU": 2.0}
    monkeypatch.setenv("INFERENCE_ENGINE__ARGS", '{"tensor_parallel_size": 4}')
    with pytest.raises(
        ClusterRefused, match=r"--gpus-per-replica 2: the setting engine\.args makes a model take 4 cards"
    ):
        bundle_of(load())
