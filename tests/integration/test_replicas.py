"""`stepserve up --replicas`: the real supervisor and the real control, over gateways that are fakes without engines."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from stepserve.child import EXIT_REFUSED, Child
from stepserve.paths import Layout
from tests.e2e.server import EARLY, FINAL_ID, free_port, kill
from tests.eventually import eventually, wait_until
from tests.integration import fake_replica, programs
from tests.integration.forked import Ended
from tests.integration.programs import STEPSERVE, environment_of
from tests.integration.test_refused_starts import refused

CORES = len(os.sched_getaffinity(0))
MEMBER = "replica-2"


class Box:
    """A server of two gateways; `control` speaks to its control as the machine's owner."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.member = base / "replicas" / MEMBER
        fake_replica.install(base)
        port = free_port()
        settings = {
            "port": port,
            "replicas__first_port": free_port(),
            "fleet__lease_s": 1,
            "ui": False,
            "drain_timeout_s": 5,
        }
        with (base / "stderr.txt").open("w") as stderr:
            self.process = psutil.Popen(
                [sys.executable, *STEPSERVE, "up", "--replicas", "2"],
                cwd=base,
                env=environment_of(base, settings),
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        self._socket = Layout(base, base / "models").control_socket
        transport = httpx.HTTPTransport(uds=str(self._socket))
        self.control = httpx.Client(transport=transport, base_url="http://control", timeout=240)

    def seen(self) -> dict[str, tuple[str, str | None]]:
        """State and model of each gateway, as control says; nothing before it answers."""
        assert self.process.poll() is None, (self.base / "stderr.txt").read_text()
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(self._socket)) != 0:
                return {}
        gateways = self.control.get("/fleet").raise_for_status().json()["gateways"]
        return {each["id"]: (each["state"], each["model"]) for each in gateways}

    def wait_for(self, state: str, model: str | None) -> None:
        wait_until(f"{MEMBER} is {state}", lambda: self.seen().get(MEMBER) == (state, model), 240.0)

    def share(self, gateway: Path) -> dict[str, Any]:
        said: dict[str, Any] = json.loads((gateway / fake_replica.SHARE).read_text())
        return said

    def post(self, path: str, /, **body: Any) -> Any:
        answer = self.control.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


@contextmanager
def box(base: Path) -> Iterator[Box]:
    there = Box(base)
    try:
        yield there
    finally:
        if there.process.is_running():
            kill([there.process, *there.process.children(recursive=True)])
            there.process.wait()
        there.control.close()


@pytest.mark.skipif(CORES < 2, reason="each replica has a core of its own")
def test_a_member_that_is_killed_comes_back_to_what_is_committed_then(tmp_path: Path) -> None:
    with box(tmp_path) as there:
        there.wait_for("ready", FINAL_ID)
        head, member = there.share(there.base), there.share(there.member)
        assert not set(head["cores"]) & set(member["cores"])
        assert sorted(head["cores"] + member["cores"]) == sorted(os.sched_getaffinity(0))

        (there.member / fake_replica.HOLD).touch()
        os.kill(member["pid"], signal.SIGKILL)
        there.wait_for("lost", None)
        shutil.copytree(EARLY, tmp_path / "models" / "early")
        there.post("/models/register", id="early", source="test")
        assert there.post("/models/set_active", id="early")["status"] == "activated"
        (there.member / fake_replica.HOLD).unlink()
        there.wait_for("ready", "early")
        assert there.share(there.member)["pid"] != member["pid"]
        assert f"{MEMBER} was killed by signal 9; starting it again" in (tmp_path / "stderr.txt").read_text()

        family = there.process.children(recursive=True)
        there.process.send_signal(signal.SIGTERM)
        assert there.process.wait(240.0) == 0
        assert not psutil.wait_procs(family, timeout=5.0)[1], "left behind"
        ended = [float((gateway / fake_replica.ENDED).read_text()) for gateway in (there.base, there.member)]
        assert ended[0] < ended[1], "a member answers for the head until the head has ended"


def up(folder: Path, *flags: str, **settings: object) -> Ended:
    return programs.server(folder, "up", "--replicas", *flags, **({"port": free_port(), "ui": False} | settings))


def test_what_does_not_fit_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        ended = up(tmp_path, "2", replicas__first_port=taken)
    refused(ended, 2, f"Cannot listen on 127.0.0.1:{taken}", "INFERENCE_REPLICAS__FIRST_PORT")
    assert not (tmp_path / "db.sqlite").exists()
    many = str(CORES + 1)
    refused(up(tmp_path, many), 2, f"{many} replicas need {many} cores, and there are {CORES}")
    refused(up(tmp_path, "0"), 2, "--replicas")
    refused(up(tmp_path, "2", replicas__first_port=65536), 2, "INFERENCE_REPLICAS__FIRST_PORT")
    refused(up(tmp_path, "2", "--gpus-per-replica", "1"), 2, "CPU build", "uses no card")
    joining = programs.server(tmp_path, "join", "http://127.0.0.1:1", replicas__count=2)
    refused(joining, 2, "`stepserve join` starts one gateway", "replicas.count")


_REFUSES = f"""echo >> starts
case $(wc -l < starts) in 1) exit 1 ;; 2) exit {EXIT_REFUSED} ;; *) exec sleep infinity ;; esac"""


@pytest.mark.parametrize("insists", [True, False])
def test_only_a_member_is_started_again_when_it_refuses_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, insists: bool
) -> None:
    """What a member needs, control or a cluster, is elsewhere and may come back; it has served before."""
    monkeypatch.chdir(tmp_path)
    child = Child("x", ["sh", "-c", _REFUSES], insists=insists)

    async def run() -> None:
        running = asyncio.create_task(child.run())
        if not insists:
            await running
            return
        await eventually(lambda: asyncio.sleep(0, child.starts), lambda starts: starts == 3)
        await child.stop(0.0)
        await running

    asyncio.run(run())
    assert child.starts == (3 if insists else 2)
