"""The command line when things are not as they should be: one sentence, a documented exit code, never a traceback."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stepserve import Client
from stepserve.client.cli import main
from stepserve.client.errors import NotFound
from tests.integration import forked
from tests.integration.forked import Ended
from tests.integration.public_server import PublicServer
from tests.integration.raw_server import BAD_GATEWAY, HTML, raw_server, reply
from tests.integration.test_push import visit, write_large

COMMAND = [sys.executable, "-c", "from stepserve.client.cli import main; main()"]


def stepserve(*arguments: str, url: str, **environment: str) -> Ended:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("INFERENCE_")}
    environment = inherited | {"INFERENCE_URL": url, "COLUMNS": "200"} | environment
    return forked.run(main, "stepserve", arguments, Path.cwd(), environment)


@pytest.mark.parametrize(
    ("said", "code", "text"),
    [
        (HTML, 3, "is not a Stepserve server: 200 with text/html instead of JSON. A proxy may stand between."),
        (BAD_GATEWAY, 3, "The server cannot answer now: 502 Bad Gateway."),
        (reply(b'{"models": 1}'), 3, "is the server older or newer?"),
        (reply(b'{"detail": "no key was given"}', "401 Unauthorized"), 4, "Refused: no key was given."),
        (reply(b'{"detail": "not with this key"}', "403 Forbidden"), 4, "Refused: not with this key."),
        (reply(b'{"detail": "it broke"}', "500 Oh"), 2, "Refused: it broke."),
    ],
)
def test_a_sentence_and_a_code(said: bytes, code: int, text: str) -> None:
    with raw_server(lambda _, __: said) as (url, _):
        ended = stepserve("models", "list", url=url)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert text in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_nobody_there_and_an_address_that_is_none() -> None:
    gone = stepserve("status", url="http://127.0.0.1:9")
    assert (gone.returncode, gone.stderr.startswith("No server can be reached at http://127.0.0.1:9 (")) == (3, True)
    wrong = stepserve("status", "--host", "host:port", url="")
    assert (wrong.returncode, wrong.stderr) == (
        2,
        "'host:port' is not the address of a server: 'port' is not a port.\n",
    )


def test_the_key_comes_from_the_environment() -> None:
    with raw_server(lambda _, __: reply(b'{"models": []}')) as (url, _):
        assert stepserve("models", "list", "--json", url=url, INFERENCE_API_KEY="sk-x").stdout == "[]\n"


def test_help_names_every_command() -> None:
    said = stepserve("--help", url="").stdout
    wanted = ("up", "status", "models", "eval", "datagen", "jobs", "chat", "gpu", "power", "logs", "doctor", "config")
    assert [name for name in wanted if f" {name} " not in said] == []


def test_a_push_that_is_stopped_by_hand_goes_on(tmp_path: Path) -> None:
    def body(_there: PublicServer, client: Client) -> None:
        source = write_large(tmp_path / "source", seed=1, tensors=100, tensor_bytes=4_000_000)
        push = [*COMMAND, "models", "push", str(source), "m", "--host", client.url]
        process = subprocess.Popen(push, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        with Client(client.url) as patient:
            while not _some_arrived(patient):
                assert process.poll() is None, process.communicate()
                time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=240)
        assert process.returncode == 130, said
        assert said.strip().splitlines()[-1] == "Stopped; the same command goes on where this one stopped."
        assert "Traceback" not in said
        ended = stepserve("models", "push", str(source), "m", "--json", url=client.url)
        assert ended.returncode == 0, ended.stderr
        told = json.loads(ended.stdout)
        assert 0 < told["sent_bytes"] < told["total_bytes"]
        assert [model.id for model in client.list_models()] == ["m"]

    visit(tmp_path / "base", body)


def _some_arrived(client: Client) -> bool:
    try:
        return any(file.received_bytes > 1_000_000 for file in client.list_uploads("m"))
    except NotFound:
        return False


def test_the_rest_of_the_commands(tmp_path: Path) -> None:
    def body(there: PublicServer, client: Client) -> None:
        (there.layout.datasets / "d.jsonl").write_text('{"question": "6*7?", "answer": "42"}\n')
        source = write_large(tmp_path / "step-7", seed=1)
        url = client.url
        pushed = stepserve("models", "push", str(source), "--tags", "a,b", "--step", "7", "--activate", url=url)
        assert pushed.returncode == 0, pushed.stderr
        assert pushed.stdout.startswith("step-7 is registered, sha256:")
        listed = stepserve("models", "list", url=url)
        assert "step-7" in listed.stdout
        assert "a, b" in listed.stdout
        (model,) = json.loads(stepserve("models", "list", "--json", url=url).stdout)
        assert (model["id"], model["is_active"]) == ("step-7", True)
        assert json.loads(stepserve("models", "activate", "step-7", "--json", url=url).stdout)["status"] == "activated"
        assert stepserve("models", "rm", "step-7", url=url).returncode == 2
        assert stepserve("models", "rollback", url=url).stderr.startswith("Refused: there is no earlier active model")
        status = stepserve("status", url=url)
        assert (status.returncode, "step-7" in status.stdout) == (1, True), "no engine runs here"
        found = stepserve("doctor", "--json", url=url)
        assert found.returncode == 1
        good = {one["check"]: one["good"] for one in json.loads(found.stdout)}
        assert good == {
            "reachable": True, "version": True, "models": True, "active model": True, "jobs": True, "an answer": False,
        }  # fmt: skip
        wrong = stepserve("datagen", "run", "custom", "--set", "what", url=url)
        assert (wrong.returncode, wrong.stderr) == (2, "--set what: write key=value.\n")

    visit(tmp_path / "base", body)


def test_chat_prints_what_comes() -> None:
    chunks = [{"choices": [{"delta": {"content": piece}}]} for piece in ("4", "2")]
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    with raw_server(lambda _, __: reply(body.encode(), kind="text/event-stream")) as (url, seen):
        ended = stepserve("chat", "6*7?", url=url)
    assert (ended.returncode, ended.stdout, seen) == (0, "42\n", ["POST /v1/chat/completions"])
