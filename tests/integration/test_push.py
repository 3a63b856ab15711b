"""push_checkpoint against a real control behind the real public port."""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepserve import Client
from stepserve.client.errors import BadCheckpoint, CheckpointChanged, Conflict
from stepserve.settings import EngineSettings
from tests.integration.adapter_files import BASE_SHAPE, write_adapter, write_tensors
from tests.integration.public_server import PublicServer, public_server
from tests.unit.control.checkpoint_files import CONFIG, write_checkpoint, write_index, write_shard


def visit(base: Path, body: Callable[[PublicServer, Client], None], **changes: Any) -> None:
    """`body` runs in a thread beside the server."""

    async def run() -> None:
        async with public_server(base, **changes) as there:
            with Client(there.url, retry_s=0) as client:
                await asyncio.to_thread(body, there, client)

    asyncio.run(run())


def write_large(folder: Path, seed: int, tensors: int = 40, tensor_bytes: int = 100_000, changed: int = 0) -> Path:
    """Two shards of random tensors; of those, `changed` differ from what the same seed gives without."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    stream = random.Random(seed)
    data = {f"layer.{n}": stream.randbytes(tensor_bytes) for n in range(tensors)}
    for n in range(changed):
        data[f"layer.{n * (tensors // max(1, changed))}"] = os.urandom(tensor_bytes)
    names = list(data)
    halves = {f"model-{n + 1:05}-of-00002.safetensors": {name: data[name] for name in names[n::2]} for n in range(2)}
    for name, part in halves.items():
        write_shard(folder / name, part)
    write_index(folder, halves)
    return folder


def test_a_push_makes_a_model_of_the_same_bytes(tmp_path: Path) -> None:
    def body(there: PublicServer, client: Client) -> None:
        source = write_large(tmp_path / "source", seed=1)
        (source / "optimizer.pt").write_bytes(b"a pickle that stays here")
        pushed = client.push_checkpoint(source, "m", tags="a,b", step=7, activate=True)
        assert pushed.sent_bytes == pushed.total_bytes
        assert (pushed.registration.id, pushed.registration.digest) == ("m", pushed.digest)
        assert client.active_model().id == "m"
        (model,) = client.list_models()
        assert (model.step, model.tags, model.digest) == (7, ["a", "b"], pushed.digest)
        placed = {file.name: file.read_bytes() for file in (there.layout.models / "m").iterdir()}
        assert placed == {file.name: file.read_bytes() for file in source.iterdir() if file.suffix != ".pt"}
        again = client.push_checkpoint(source, "m")
        assert (again.registration.existing, again.sent_bytes) == (True, 0)

    visit(tmp_path / "base", body)


def test_a_later_checkpoint_sends_only_what_changed(tmp_path: Path) -> None:
    def body(there: PublicServer, client: Client) -> None:
        client.push_checkpoint(write_large(tmp_path / "first", seed=1), "first")
        later = write_large(tmp_path / "later", seed=1, changed=2)
        pushed = client.push_checkpoint(later, "later")
        assert 0 < pushed.sent_bytes <= 0.1 * pushed.total_bytes
        placed = there.layout.models / "later"
        assert all(file.read_bytes() == (placed / file.name).read_bytes() for file in later.iterdir())

    visit(tmp_path / "base", body)


def test_what_was_copied_there_by_hand_is_not_sent_either(tmp_path: Path) -> None:
    def body(there: PublicServer, client: Client) -> None:
        write_large(there.layout.models / "by-hand", seed=1)
        client.register_model("by-hand")
        pushed = client.push_checkpoint(write_large(tmp_path / "same", seed=1), "pushed")
        assert pushed.sent_bytes < 0.01 * pushed.total_bytes

    visit(tmp_path / "base", body)


def test_other_content_under_the_same_id(tmp_path: Path) -> None:
    def body(there: PublicServer, client: Client) -> None:
        client.push_checkpoint(write_large(tmp_path / "a", seed=1), "m", activate=True)
        before = client.active_model().digest
        with pytest.raises(Conflict, match="replace"):
            client.push_checkpoint(write_large(tmp_path / "b", seed=2), "m")
        assert client.active_model().digest == before
        replaced = client.push_checkpoint(tmp_path / "b", "m", replace=True)
        assert replaced.sent_bytes == 0, "it was kept from the first try"
        assert replaced.registration.activation is not None
        assert replaced.registration["replaced"] == before
        assert client.active_model().digest == replaced.digest
        assert there.gateway.asked[-1].model.digest == replaced.digest
        assert len(list(there.layout.models.iterdir())) == 1

    visit(tmp_path / "base", body)


def test_an_activation_of_replaced_content_that_fails_changes_nothing(tmp_path: Path) -> None:
    def body(there: PublicServer, client: Client) -> None:
        first = client.push_checkpoint(write_large(tmp_path / "a", seed=1), "m", activate=True)
        there.gateway.fail_with = "it does not load"
        with pytest.raises(Exception, match="it does not load"):
            client.push_checkpoint(write_large(tmp_path / "b", seed=2), "m", replace=True)
        assert client.active_model().digest == first.digest
        assert client.list_models()[0].digest == first.digest
        there.gateway.fail_with = None
        assert client.push_checkpoint(tmp_path / "b", "m", replace=True).registration.activation is not None

    visit(tmp_path / "base", body)


def test_a_folder_that_is_no_checkpoint_is_named_before_anything_is_sent(tmp_path: Path) -> None:
    with Client("http://127.0.0.1:9", retry_s=0) as nobody:
        with pytest.raises(BadCheckpoint, match="There is no folder"):
            nobody.push_checkpoint(tmp_path / "ghost", "m")
        (tmp_path / "empty").mkdir()
        with pytest.raises(BadCheckpoint, match=r"config\.json is missing"):
            nobody.push_checkpoint(tmp_path / "empty", "m")
        torn = write_checkpoint(tmp_path / "torn") / "model.safetensors"
        torn.write_bytes(torn.read_bytes()[:-5])
        with pytest.raises(BadCheckpoint, match=r"model\.safetensors is torn"):
            nobody.push_checkpoint(tmp_path / "torn", "m")
        lacking = write_checkpoint(tmp_path / "lacking", shards=2)
        (lacking / "model-00002-of-00002.safetensors").unlink()
        with pytest.raises(BadCheckpoint, match=r"model-00002-of-00002\.safetensors is missing"):
            nobody.push_checkpoint(lacking, "m")


def test_a_file_whose_name_cannot_be_sent_does_not_lose_the_push(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write_large(tmp_path / "source", seed=1)
    for name in ("training notes.txt", "lösses.png", "-rf"):
        (source / name).write_text("not the model's")

    def body(there: PublicServer, client: Client) -> None:
        pushed = client.push_checkpoint(source, "m")
        assert pushed.registration.digest == pushed.digest
        assert {"config.json", "tokenizer.json"} < {file.name for file in (there.layout.models / "m").iterdir()}
        assert not list((there.layout.models / "m").glob("*.txt"))

    visit(tmp_path / "base", body)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "stepserve.client.checkpoint"]
    assert line.endswith(": -rf, lösses.png, training notes.txt")


def test_weights_whose_name_cannot_be_sent_are_no_matter_of_a_log(tmp_path: Path) -> None:
    named = write_large(tmp_path / "named", seed=1)
    shard, index = named / "model-00001-of-00002.safetensors", named / "model.safetensors.index.json"
    shard.rename(named / "model 1.safetensors")
    index.write_text(index.read_text().replace(shard.name, "model 1.safetensors"))
    alone = write_checkpoint(tmp_path / "alone")
    (alone / "model.safetensors").rename(alone / "modèle.safetensors")
    with Client("http://127.0.0.1:9", retry_s=0) as nobody:
        for folder, name in ((named, "model 1.safetensors"), (alone, "modèle.safetensors")):
            with pytest.raises(BadCheckpoint, match=rf"{name} cannot be sent under this name .*: rename it"):
                nobody.push_checkpoint(folder, "m")


def test_what_the_server_changes_of_it_is_no_conflict(tmp_path: Path) -> None:
    """With a chat template, or as an adapter, the digest there is not that of the files."""

    def body(there: PublicServer, client: Client) -> None:
        base = write_checkpoint(tmp_path / "base-model")
        write_tensors(base / "model.safetensors", {"model.layers.0.o_proj.weight": BASE_SHAPE})
        based = client.push_checkpoint(base, "base", chat_template="chatml")
        assert (based.registration.chat_template, based.registration.warnings) == ("registered", [])
        tuned = client.push_checkpoint(write_adapter(tmp_path / "tuned"), "tuned", base_model="base")
        assert tuned.registration.base_model == "base"
        assert client.push_checkpoint(base, "base", chat_template="chatml").registration.existing

    visit(tmp_path / "server", body, engine=EngineSettings(max_loras=2))


def test_a_checkpoint_that_changes_while_it_is_pushed(tmp_path: Path) -> None:
    def body(there: PublicServer, client: Client) -> None:
        source = write_large(tmp_path / "source", seed=1)

        def disturb(there_bytes: int, _total: int) -> None:
            if there_bytes:
                (source / "config.json").write_text(" " + (source / "config.json").read_text())

        with pytest.raises(CheckpointChanged, match=r"config\.json changed while it was pushed"):
            client.push_checkpoint(source, "m", on_progress=disturb)
        assert client.list_models() == []
        assert list(there.layout.models.iterdir()) == []
        pushed = client.push_checkpoint(source, "m")
        assert pushed.sent_bytes < pushed.total_bytes, "what had arrived is not sent again"

    visit(tmp_path / "base", body)


_PUSH = """
import sys
from stepserve import Client
with Client(sys.argv[1]) as client:
    client.push_checkpoint(sys.argv[2], "m", on_progress=lambda there, total: print(there, flush=True))
"""


def test_a_trainer_killed_in_the_middle_goes_on_where_it_was(tmp_path: Path) -> None:
    def body(_: PublicServer, client: Client) -> None:
        source = write_large(tmp_path / "source", seed=1, tensors=80, tensor_bytes=4_000_000)
        process = subprocess.Popen(
            [sys.executable, "-c", _PUSH, client.url, str(source)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        while int(process.stdout.readline()) < 100_000_000:
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert client.list_models() == []
        pushed = client.push_checkpoint(source, "m")
        assert pushed.sent_bytes <= pushed.total_bytes - 90_000_000

    visit(tmp_path / "base", body)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_a_server_killed_in_the_middle_and_started_again(tmp_path: Path) -> None:
    source = write_large(tmp_path / "source", seed=1, tensors=80, tensor_bytes=2_000_000)
    port = _free_port()
    command = [sys.executable, "-m", "tests.integration.public_server", str(tmp_path / "base"), str(port)]
    servers = [subprocess.Popen(command)]
    try:
        with Client(f"127.0.0.1:{port}", retry_s=60) as client:
            client.list_models()

            def kill_once(there_bytes: int, _total: int) -> None:
                if there_bytes > 40_000_000 and len(servers) == 1:
                    servers[0].kill()
                    servers[0].wait()
                    servers.append(subprocess.Popen(command))

            pushed = client.push_checkpoint(source, "m", on_progress=kill_once)
            assert len(servers) == 2
            assert [model.digest for model in client.list_models()] == [pushed.digest]
            placed = tmp_path / "base" / "models" / "m"
            assert all(file.read_bytes() == (placed / file.name).read_bytes() for file in source.iterdir())
    finally:
        for server in servers:
            server.kill()
            server.wait()


async def test_one_id_pushed_twice_at_once(tmp_path: Path) -> None:
    source = write_large(tmp_path / "source", seed=1, tensors=80, tensor_bytes=400_000)
    async with public_server(tmp_path / "base") as there:
        with Client(there.url) as one, Client(there.url) as two:
            pushes = [asyncio.to_thread(client.push_checkpoint, source, "m", connections=1) for client in (one, two)]
            ended = await asyncio.gather(*pushes, return_exceptions=True)
            registered = await asyncio.to_thread(one.list_models)
        assert [model.id for model in registered] == ["m"]
        for end in ended:
            assert not isinstance(end, BaseException), end
            assert end.digest == registered[0].digest
