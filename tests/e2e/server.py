"""The real program, as a user starts it: `stepserve up` (or `join`) on a free port and a base directory."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import psutil

from tests.eventually import wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = REPOSITORY / "demo" / "checkpoints"
EARLY, FINAL, TASK_WRITER = DEMO / "step-0300", DEMO / "step-1500", DEMO / "task-writer"
FINAL_ID = "demo-step-1500"
# Which changes to vLLM every server of a run has: the one setting that is taken from the environment of the tests.
PATCHES_VARIABLE = "INFERENCE_ENGINE__PATCHES"
_START_TIMEOUT_S = 600.0
_GONE_WITHIN_S = 5.0  # a large process that was killed takes a moment to go
_STOP_TIMEOUT_S = 40.0  # a figure for the stop itself is tests/e2e/test_stopping.py's


def kill(processes: Iterable[psutil.Process]) -> None:
    """Some may end by themselves in between, as an engine does whose parent is gone."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def title_of(process: psutil.Process) -> str:
    """What its command line says; empty for one that has ended, reaped or not."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # zombies are such, too
        return ""


class Server:
    """A running server; leaving the context stops it as Ctrl-C does and checks that nothing is left.

    `arguments`: the command and what comes after it.
    """

    arguments: Sequence[str] = ("up",)

    def __init__(self, base_dir: Path, **settings: object) -> None:
        self.base_dir = base_dir
        self.port = free_port()
        self.expected_code = 0
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=300.0, trust_env=False)
        kept = {key: value for key, value in os.environ.items() if key == PATCHES_VARIABLE}
        environment = {key: value for key, value in os.environ.items() if not key.startswith("INFERENCE_")} | kept
        environment |= {"INFERENCE_BASE_DIR": str(base_dir), "INFERENCE_PORT": str(self.port)}
        environment["INFERENCE_DRAIN_TIMEOUT_S"] = "5"
        environment["INFERENCE_PROOF_WAIT_S"] = "240"  # a slow machine's references are computed all the same
        environment["INFERENCE_UI"] = "false"
        environment |= {f"INFERENCE_{name.upper()}": str(value) for name, value in settings.items()}
        self._output = (base_dir / "terminal.txt").open("w+")
        self.process = psutil.Popen(
            [Path(sys.executable).with_name("stepserve"), *self.arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )

    @property
    def models_dir(self) -> Path:
        return self.base_dir / "models"

    def terminal(self) -> str:
        return (self.base_dir / "terminal.txt").read_text()

    def ready(self) -> bool:
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def wait_ready(self) -> float:
        """Fails at once, with what the server has said, when it ends instead."""
        return wait_until("the server is ready", self.ready, _START_TIMEOUT_S, given_up=self._ended)

    def _ended(self) -> str | None:
        code = self.process.poll()
        return None if code is None else f"it ended with {code}: {self.terminal()}"

    def processes(self) -> list[psutil.Process]:
        """The supervisor and everything below it."""
        return [self.process, *self.process.children(recursive=True)]

    def named(self, title: str) -> psutil.Process:
        """The process below the supervisor whose title begins so, such as `stepserve: control`."""
        return next(process for process in self.processes() if title_of(process).startswith(title))

    def copy_checkpoint(self, source: Path, name: str) -> None:
        shutil.copytree(source, self.models_dir / name)

    def forget(self, model_id: str) -> None:
        """The model and its folder, which the server leaves where a test has put it there."""
        self.http.delete(f"/models/{model_id}?files=true").raise_for_status()
        shutil.rmtree(self.models_dir / model_id, ignore_errors=True)

    def ask(self, question: str, model: str = "active") -> httpx.Response:
        messages = [{"role": "user", "content": question}]
        return self.http.post("/v1/chat/completions", json={"model": model, "messages": messages, "temperature": 0})

    def job(self, job_id: str) -> dict[str, object]:
        """The job once it has ended."""
        answers: list[dict[str, object]] = []

        def ended() -> bool:
            answers[:] = [self.http.get(f"/jobs/{job_id}").raise_for_status().json()]
            return answers[0]["status"] in ("done", "failed", "cancelled")

        wait_until(f"{job_id} ends", ended, 240.0)
        return answers[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        family = self.processes() if self.process.is_running() else []
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            code = self.process.wait(_STOP_TIMEOUT_S)
        finally:
            left = psutil.wait_procs(family, timeout=_GONE_WITHIN_S)[1]
            kill(left)
            self.http.close()
            self._output.close()
        if error is None:
            assert code == self.expected_code, self.terminal()
            assert not left, f"left behind: {left}"


def answer_of(response: httpx.Response) -> str:
    """The text of a chat completion; fails the test when the request failed."""
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["message"]["content"]
    return text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
