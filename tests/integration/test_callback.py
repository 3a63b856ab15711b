"""The hooks of a training: transformers' real Trainer, and a loop of one's own, against a real control."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stepserve import CheckpointHook, Client, Eval, StepserveCallback
from stepserve.settings import EngineSettings
from tests.integration.adapter_files import BASE_SHAPE, write_adapter, write_tensors
from tests.integration.public_server import PublicServer, public_server
from tests.integration.test_push import visit, write_large
from tests.unit.control.checkpoint_files import write_checkpoint

NOBODY = "http://127.0.0.1:9"


def _train(out: Path, *urls: str) -> tuple[list[Any], str]:
    command = [sys.executable, "-m", "tests.integration.training_run", str(out), *urls]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    told: list[Any] = json.loads(ended.stdout.splitlines()[-1])
    return told, ended.stderr


async def test_a_trainer_sends_its_checkpoints_and_trains_on_without_a_server(tmp_path: Path) -> None:
    async with public_server(tmp_path / "base") as there:
        (there.layout.datasets / "d.jsonl").write_text('{"question": "6*7?", "answer": "42"}\n')
        (told, alone), said = await asyncio.to_thread(_train, tmp_path / "out", there.url, NOBODY)
        results = {entry["step"]: entry for entry in told["history"] if "eval_d/accuracy" in entry}
        assert {step: entry["eval_d/accuracy"] for step, entry in results.items()} == {2: 1.0, 4: 1.0}
        assert {step for step, names in told["reported"] if "eval_d/accuracy" in names} == {2, 4}
        assert told["left"] == ["checkpoint-4"], "the one of step 2 was rotated away, and no snapshot is left"
        with Client(there.url) as client:
            models = await asyncio.to_thread(client.list_models)
            assert {model.id: model.step for model in models} == {"run-step-2": 2, "run-step-4": 4}
            jobs = await asyncio.to_thread(client.list_jobs)
            assert {job.model_id for job in jobs} == {"run-step-2", "run-step-4"}
        assert there.gateway.active is not None
        assert there.gateway.active.id == "run-step-4"
        reference = there.gateway.asked[-1].reference
        assert reference is not None, "the trainer's probe"
        assert reference.kind == "reference"
        assert [entry["step"] for entry in alone["history"] if "loss" in entry] == [1, 2, 3, 4]
        assert "checkpoint of step 4 is not on the server: No server can be reached" in said
        assert "Traceback" not in said


def test_a_loop_of_ones_own(tmp_path: Path) -> None:
    def body(there: PublicServer, client: Client) -> None:
        (there.layout.datasets / "d.jsonl").write_text('{"question": "6*7?", "answer": "42"}\n')
        arrived: list[tuple[int, dict[str, float]]] = []
        hook = CheckpointHook(
            "my run/1",
            client=client,
            activate=True,
            evals=[Eval("d", max_samples=1)],
            keep=1,
            on_metrics=lambda metrics: arrived.append((metrics.step, metrics.values)),
        )
        hook.saved(write_large(tmp_path / "out" / "a", seed=1), 1)
        assert hook.drain(30)
        hook.saved(write_large(tmp_path / "out" / "b", seed=2), 2)
        assert hook.close(30)
        assert [(step, values["eval/d/accuracy"]) for step, values in arrived] == [(1, 1.0), (2, 1.0)]
        assert [metrics.step for metrics in hook.results()] == [1, 2]
        assert [model.id for model in client.list_models()] == ["my-run-1-step-2"]
        assert {path.name for path in (tmp_path / "out").iterdir()} == {"a", "b"}

    visit(tmp_path / "base", body)


def test_adapters_of_a_base_that_is_called_otherwise_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Trainers write the path of the base on their own disk, or a hub's name, into adapter_config.json."""

    def body(there: PublicServer, client: Client) -> None:
        base = write_checkpoint(tmp_path / "base-model")
        write_tensors(base / "model.safetensors", {"model.layers.0.o_proj.weight": BASE_SHAPE})
        client.push_checkpoint(base, "served-base")
        told = StepserveCallback("run", probe=False, client=client, base_model="served-base", chat_template="plain")
        (tmp_path / "out").mkdir()
        write_adapter(tmp_path / "out" / "checkpoint-5", base_model_name_or_path="/home/me/models/base")
        state = SimpleNamespace(is_world_process_zero=True, global_step=5, log_history=[])
        arguments = SimpleNamespace(output_dir=str(tmp_path / "out"), deepspeed=None, fsdp=None)
        told.on_save(arguments, state, None)
        told.on_train_end(arguments, state, None)
        adapter = next(model for model in client.list_models() if model.id == "run-step-5")
        assert (adapter.base_model, adapter.chat_template, adapter.step) == ("served-base", "registered", 5)

    visit(tmp_path / "server", body, engine=EngineSettings(max_loras=2))
    assert "is not on the server" not in caplog.text


async def test_saving_never_waits_for_a_server_that_hangs(tmp_path: Path) -> None:
    source = write_large(tmp_path / "source", seed=1)
    asked = threading.Event()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        try:
            await reader.read()
        finally:
            writer.close()

    server = await asyncio.start_server(never, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with Client(f"127.0.0.1:{port}", timeout_s=1.0, retry_s=0.0) as client:
        hook = CheckpointHook("run", client=client, retry_s=0.0)
        started = time.monotonic()
        for step in range(20):
            hook.saved(source, step)
        assert time.monotonic() - started < 10.0
        assert await asyncio.to_thread(asked.wait, 10)
        assert not hook.drain(0.1)
        await asyncio.to_thread(hook.close, 0.1)
    server.close()
