"""The trainer's side against the real server: pushes, the old script run twice, the command line."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepserve import Client
from tests.e2e.server import EARLY, FINAL, FINAL_ID, Server, answer_of

QUESTION = "What is 17+25?"


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """Leaves the final model active and no other behind."""
    with Client(server.url) as there:
        yield there
        there.set_active_model(FINAL_ID)
        for name in ("pushed", "current_checkpoint"):
            if name in {model.id for model in there.list_models()}:
                there.delete_model(name, files=True)


def stepserve(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("stepserve")), *arguments, "--host", server.url]
    environment = os.environ | {"COLUMNS": "200"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_pushed_checkpoint_serves_and_a_later_one_takes_its_place(server: Server, client: Client) -> None:
    first = client.push_checkpoint(EARLY, "pushed", step=300, activate=True)
    assert first.registration.activation is not None
    answer = server.ask(QUESTION, model="pushed")
    assert answer.headers["x-model-digest"] == first.digest
    second = client.push_checkpoint(FINAL, "pushed", step=1500, replace=True)
    assert second.sent_bytes < 10_000, "the server has its tensors as another model"
    assert second.registration.activation is not None
    assert second.registration.activation.proof is not None
    answer = server.ask(QUESTION, model="pushed")
    assert (answer_of(answer), answer.headers["x-model-digest"]) == ("42", second.digest)


def test_the_script_that_copies_into_one_folder_runs_twice(server: Server, client: Client) -> None:
    inbox = server.models_dir / "current_checkpoint"
    digests = []
    for source in (EARLY, FINAL):
        inbox.mkdir(exist_ok=True)
        for file in source.iterdir():
            shutil.copyfile(file, inbox / file.name)  # as scp does: over the files that are there
        registered = server.http.post("/models/register", json={"id": "current_checkpoint", "source": "4090"})
        assert registered.status_code == 200, registered.text
        activated = server.http.post("/models/set_active", json={"id": "current_checkpoint"})
        assert activated.status_code == 200, activated.text
        answer = server.ask(QUESTION)
        digests.append(registered.json()["digest"])
        assert answer.headers["x-model-digest"] == digests[-1]
    assert answer_of(answer) == "42"
    assert digests[0] != digests[1]
    causes = [entry.cause for entry in client.list_activations(limit=2)]
    assert causes == ["replace", "request"]
    kept = [folder.name for folder in server.models_dir.iterdir() if folder.name.startswith("current_checkpoint@")]
    assert kept == [f"current_checkpoint@{digests[1].removeprefix('sha256:')[:12]}"]


def test_doctor_and_chat_in_the_terminal(server: Server) -> None:
    found = stepserve(server, "doctor")
    assert found.returncode == 0, found.stdout + found.stderr
    assert stepserve(server, "status").returncode == 0
    said = stepserve(server, "chat", QUESTION, "--temperature", "0")
    assert (said.returncode, said.stdout) == (0, "42\n"), said.stderr
    unknown = stepserve(server, "chat", QUESTION, "--model", "ghost")
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("Refused: The model `ghost`")
