"""`stepserve doctor --here` as a person runs it on a machine with something wrong."""

import asyncio
import json
import os
import socket
from pathlib import Path

from stepserve.base_lock import hold
from stepserve.fleet_settings import FleetSettings
from stepserve.paths import Layout
from tests.e2e.server import free_port
from tests.integration.fake_member import FakeMember
from tests.integration.full_stack import FullStack, run_story
from tests.integration.programs import stepserve
from tests.unit.control.checkpoint_files import write_checkpoint


def doctor(folder: Path, **settings: object) -> tuple[int, dict[str, tuple[bool, str]]]:
    """The exit code, and of each check whether it was good and what was said."""
    ended = stepserve(folder, "doctor", "--here", "--json", **({"port": free_port()} | settings))
    found = json.loads(ended.stdout)
    return ended.returncode, {one["check"]: (one["good"], one["said"]) for one in found}


def write_planned(folder: Path) -> None:
    """A checkpoint whose config.json has what a plan follows from."""
    write_checkpoint(folder, 7)
    config = json.loads((folder / "config.json").read_text())
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 16}
    (folder / "config.json").write_text(json.dumps(config | sizes))


def test_a_fresh_machine_is_well(tmp_path: Path) -> None:
    _, found = doctor(tmp_path)
    assert found["base directory"] == (True, str(tmp_path))
    assert found["database"] == (True, "made at the first start")
    assert found["port"][0]
    assert found["active model"] == (True, "no model is active yet")
    for check, said in (("devices", "1 of "), ("shared memory", "/dev/shm"), ("open files", "needed")):
        assert found[check][0], found[check]
        assert said in found[check][1]
    assert "fleet" not in found, "it is not to be a member of one"


def test_what_the_machine_does_not_allow_is_named_with_what_to_do(tmp_path: Path) -> None:
    write_planned(tmp_path / "checkpoint")
    code, found = doctor(
        tmp_path,
        model_path=tmp_path / "checkpoint",
        engine__args=json.dumps({"tensor_parallel_size": 64, "pipeline_parallel_size": 64}),
        engine__cpu_kv_cache_gib=1_000_000,
        max_held_requests=2_000_000_000,
    )
    assert code == 1
    for check, said in (
        ("devices", "engine.args asks for 4096 ranks and there are"),
        ("active model", "checkpoint needs about 1073"),
        ("active model", "or lower INFERENCE_ENGINE__CPU_KV_CACHE_GIB"),
        ("open files", "LimitNOFILE="),
    ):
        assert not found[check][0]
        assert said in found[check][1]


def test_the_plan_is_of_the_model_that_was_active_last(tmp_path: Path) -> None:
    async def story(there: FullStack) -> None:
        write_planned(there.settings.layout.models / "other")
        engine = {"max_num_seqs": 2}
        for path, body in (
            ("/models/register", {"id": "other", "source": "t", "engine": engine}),
            ("/models/set_active", {"id": "other"}),
        ):
            (await there.http.post(path, json=body)).raise_for_status()

    run_story(tmp_path, story)
    _, found = doctor(tmp_path)
    good, said = found["active model"]
    assert good
    assert said.startswith("other needs about ")


def test_a_member_is_told_what_of_its_fleet_it_does_not_reach(tmp_path: Path) -> None:
    async def story(head: FullStack) -> None:
        async def examined(control: str, key: str) -> tuple[bool, str]:
            settings = {"FLEET__CONTROL": control, "FLEET__API_KEY": key, "FLEET__ID": "m1"}
            named = {f"INFERENCE_{name}": value for name, value in settings.items()}
            _, found = await asyncio.to_thread(doctor, tmp_path / "member", **named)
            return found["fleet"]

        key, other = await head.key(scopes=["fleet"]), FakeMember("m2")
        assert await examined(head.url, key) == (True, f"{head.url} and 0 other members are reached")
        good, said = await examined(head.url, await head.key(scopes=["infer"]))
        assert not good
        assert "INFERENCE_FLEET__API_KEY must be one of its keys with the scope `fleet`" in said
        good, said = await examined(f"http://127.0.0.1:{free_port()}", key)
        assert not good
        assert "see whether it runs, and to INFERENCE_FLEET__CONTROL" in said
        async with other.joined(head.owner):
            assert await examined(head.url, key) == (True, f"{head.url} and 1 other members are reached")
        await other.join()
        good, said = await examined(head.url, key)
        assert not good
        assert f"m2 at {other.url} is not reached" in said
        assert "INFERENCE_FLEET__ADVERTISE" in said

    (tmp_path / "member").mkdir()
    run_story(tmp_path / "head", story, fleet=FleetSettings(lease_s=3600))


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


def test_where_nodes_are_to_join(tmp_path: Path) -> None:
    nodes = {"nodes__key": "k" * 24, "nodes__address": "127.0.0.1", "nodes__port": free_port()}
    args = {"engine__args": json.dumps({"tensor_parallel_size": 2, "nnodes": 2})}
    _, found = doctor(tmp_path, **nodes, **args)
    assert found["nodes"] == (True, f"127.0.0.1:{nodes['nodes__port']} (lo) is free")
    assert found["devices"][1].startswith("1 of "), "the other rank is on the other node"
    with socket.create_server(("127.0.0.1", 0)) as other:
        _, found = doctor(tmp_path, **nodes | {"nodes__port": other.getsockname()[1]})
        assert not found["nodes"][0]
        assert "set nodes.port" in found["nodes"][1]
    _, found = doctor(tmp_path, **nodes | {"nodes__address": "192.0.2.1"})
    assert "192.0.2.1 is not an address of this machine, which has 127.0.0.1 (lo)" in found["nodes"][1]
    _, found = doctor(tmp_path, **args)
    assert found["nodes"] == (False, "engine.args has nnodes and no node can join: set nodes.address and nodes.key")
