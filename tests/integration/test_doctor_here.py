"""`stepserve doctor --here` as a person runs it on a machine with something wrong."""

import json
import os
import socket
from pathlib import Path

from stepserve.base_lock import hold
from stepserve.paths import Layout
from tests.e2e.server import free_port
from tests.integration.programs import stepserve


def doctor(folder: Path, **settings: object) -> tuple[int, dict[str, tuple[bool, str]]]:
    """The exit code, and of each check whether it was good and what was said."""
    ended = stepserve(folder, "doctor", "--here", "--json", **({"port": free_port()} | settings))
    found = json.loads(ended.stdout)
    return ended.returncode, {one["check"]: (one["good"], one["said"]) for one in found}


def test_a_fresh_machine_is_well(tmp_path: Path) -> None:
    _, found = doctor(tmp_path)
    assert found["base directory"] == (True, str(tmp_path))
    assert found["database"] == (True, "made at the first start")
    assert found["port"][0]


def test_each_trouble_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "db.sqlite").write_bytes(b"no database" * 1000)
    (tmp_path / "models" / "cut").mkdir(parents=True)
    (tmp_path / "models" / "cut" / "model.safetensors").touch()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        code, found = doctor(tmp_path, port=other.getsockname()[1])
    assert code == 1
    for check, said in (
        ("port", "set INFERENCE_HOST or INFERENCE_PORT"),
        ("database", "stepserve db restore"),
        ("model files", "model.safetensors is empty"),
    ):
        assert not found[check][0]
        assert said in found[check][1]


def test_a_base_directory_that_is_a_file_and_a_checkpoint_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, found = doctor(tmp_path, base_dir=tmp_path / "file", model_path=tmp_path / "nothing")
    assert code == 1
    assert "set INFERENCE_BASE_DIR" in found["base directory"][1]
    assert "no config.json" in found["model files"][1]


def test_a_port_that_our_own_server_has_is_no_trouble(tmp_path: Path) -> None:
    with hold(Layout(base=tmp_path, models=tmp_path / "models")):
        _, found = doctor(tmp_path)
    good, said = found["port"]
    assert good
    assert f"process {os.getpid()}" in said
