"""How SLURM and systemd stop a server that is at work: their own files, and the signals that they send."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.server import FINAL, REPOSITORY, free_port, kill
from tests.eventually import wait_until

pytestmark = pytest.mark.long

KEY = "k" * 32
LONG = {"model": "active", "prompt": "7", "max_tokens": 400, "ignore_eos": True, "stream": True}


class Stopped:
    """A server on `port` with one stream open; `how` tells how that ended for its client."""

    def __init__(self, port: int, pool: ThreadPoolExecutor) -> None:
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"authorization": f"Bearer {KEY}"},
            timeout=240,
            trust_env=False,
        )
        begun: Future[None] = Future()
        self.how: Future[str] = pool.submit(self._read, begun)
        begun.result(240)

    def _read(self, begun: "Future[None]") -> str:
        try:
            with self.http.stream("POST", "/v1/completions", json=LONG) as answer:
                for line in answer.iter_lines():
                    if not begun.done():
                        begun.set_result(None)
                    if line == "data: [DONE]":
                        return "whole"
        except httpx.TransportError:
            pass
        return "cut"


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as threads:
        yield threads


@contextmanager
def batch_job(folder: Path, port: int) -> Iterator[psutil.Popen]:
    """fast.sbatch as slurmd runs it; `scontrol` is the one command of SLURM's that it uses."""
    home, tools = folder / "home", folder / "tools"
    home.mkdir(exist_ok=True)
    tools.mkdir(exist_ok=True)
    if not (home / "deploy").exists():
        (home / ".venv").symlink_to(Path(sys.executable).parents[1])
        (home / "deploy").symlink_to(REPOSITORY / "deploy")
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" >>{folder}/asked\n')
    (tools / "scontrol").chmod(0o755)
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("INFERENCE_", "SLURM_"))}
    environment = bare | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "STEPSERVE_HOME": str(home),
        "STEPSERVE_HOSTS": str(folder / "hosts.json"),
        "STEPSERVE_BASE_DIR": str(folder / "base"),
        "INFERENCE_ACCESS__ADMIN_KEY": KEY,
        "INFERENCE_PORT": str(port),
        "INFERENCE_UI": "false",
        "MODEL_PATH": str(FINAL),
        "SLURM_JOB_ID": "78",
        "SLURM_ARRAY_JOB_ID": "77",
        "SLURM_ARRAY_TASK_ID": "0",
    }
    script = REPOSITORY / "deploy" / "slurm" / "fast.sbatch"
    with (folder / "job.log").open("a") as log:
        job = psutil.Popen(["bash", script], cwd=folder, env=environment, stdout=log, stderr=log)
        family: list[psutil.Process] = [job]
        try:
            wait_until("it has entered itself", lambda: job.poll() is not None or _tiers(folder) != {}, 240)
            assert job.poll() is None, (folder / "job.log").read_text()
            family += job.children(recursive=True)
            yield job
            assert [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
        finally:
            kill(family)
            job.wait()


def _tiers(folder: Path) -> dict[str, object]:
    file = folder / "hosts.json"
    tiers: dict[str, object] = json.loads(file.read_text())["tiers"] if file.exists() else {}
    return tiers


def test_slurm_preempts_a_job_and_ends_one_whose_time_is_up(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    port = free_port()
    with batch_job(tmp_path, port) as job:
        stopped = Stopped(port, pool)
        for process in (job, *job.children(recursive=True)):  # a preempted job: each of its processes
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGTERM)
        assert job.wait(240) == 0
        assert stopped.how.result(240) == "whole"
        assert _tiers(tmp_path) == {}
        assert not (tmp_path / "asked").exists(), "SLURM itself requeues what it has preempted"
    with batch_job(tmp_path, port) as job:
        stopped = Stopped(port, pool)
        job.send_signal(signal.SIGUSR1)  # --signal=B:USR1@60: the batch shell alone, a minute before its time is up
        assert job.wait(240) == 0
        assert stopped.how.result(240) == "whole"
        assert (tmp_path / "asked").read_text() == "requeue 77_0\n"
        assert _tiers(tmp_path) == {}


SYSTEMD = """
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system "$XDG_RUNTIME_DIR/systemd/user"
cp "$UNIT" "$XDG_RUNTIME_DIR/systemd/user/"
/lib/systemd/systemd --user --log-target=console &
until systemctl --user start stepserve.service; do sleep 0.2; done
read -r _  # until it is to stop
systemctl --user stop stepserve.service
systemctl --user show stepserve.service -p Result -p NRestarts -p ExecMainStatus
pgrep -a "stepserve|VLLM"
kill %1
"""


def test_systemd_stops_the_unit(tmp_path: Path, pool: ThreadPoolExecutor) -> None:
    """A systemd of the test's own, as a user's manager in a namespace: what concerns stopping is the unit's."""
    ours, port = (REPOSITORY / "deploy" / "systemd" / "stepserve.service").read_text(), free_port()
    stopping = [line for line in ours.splitlines() if line.startswith(("Type=", "Kill", "Timeout", "Restart", "Exec"))]
    program = Path(sys.executable).with_name("stepserve")
    (tmp_path / "stepserve.service").write_text(
        "[Service]\n"
        + "\n".join(stopping).replace("/opt/stepserve/.venv/bin/stepserve", str(program))
        + f"\nWorkingDirectory={tmp_path}\nEnvironment=PYTHONPATH={REPOSITORY} INFERENCE_BASE_DIR={tmp_path / 'base'}"
        f" INFERENCE_PORT={port} INFERENCE_UI=false INFERENCE_ACCESS__ADMIN_KEY={KEY} PATH={os.environ['PATH']}"
        f" HOME={tmp_path} MODEL_PATH={FINAL}\n"
    )
    environment = os.environ | {
        "XDG_RUNTIME_DIR": "/run/user-of-the-test",
        "UNIT": str(tmp_path / "stepserve.service"),
    }
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", SYSTEMD]
    try:
        manager = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    except FileNotFoundError:
        pytest.skip("unshare is not installed")
    with manager:
        try:
            wait_until("it serves", lambda: manager.poll() is not None or _ready(port), 240)
            if manager.poll() is not None:
                pytest.skip("no systemd can be started here")
            stopped = Stopped(port, pool)
            told, _ = manager.communicate("stop\n", timeout=240)
        finally:
            manager.kill()
    assert stopped.how.result(240) == "whole"
    assert told.splitlines() == ["Result=success", "NRestarts=0", "ExecMainStatus=0"]


def _ready(port: int) -> bool:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)):
            return False
    return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False).status_code == 200
