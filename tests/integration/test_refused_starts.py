"""Starts that cannot be: each refused, by `stepserve up` or the process that notices, in words with the way out."""

import fcntl
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import psutil
import pytest

from stepserve.base_lock import hold
from stepserve.child import EXIT_REFUSED
from stepserve.paths import Layout
from tests.e2e.server import Server, free_port
from tests.eventually import wait_until
from tests.integration import programs
from tests.integration.forked import Ended
from tests.integration.mounts import small_file_system
from tests.integration.programs import REPOSITORY, environment_of, python

NO_DEMO = {"install_demo": False}


def up(folder: Path, *flags: str, **settings: object) -> Ended:
    return programs.server(folder, "up", *flags, **({"port": free_port()} | NO_DEMO | settings))


def refused(ended: Ended, code: int, *words: str) -> None:
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    for word in words:
        assert word in " ".join(ended.stderr.split())


def test_a_base_directory_that_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    ended = up(tmp_path, base_dir=file)
    refused(ended, 2, str(file), "cannot be used: it is a file", "Set INFERENCE_BASE_DIR.")
    assert len(ended.stderr.strip().splitlines()) == 1
    assert file.read_text() == "kept"


def test_a_base_directory_that_nobody_can_write(tmp_path: Path) -> None:
    refused(up(tmp_path, base_dir="/proc/stepserve"), 2, "/proc/stepserve", "Set INFERENCE_BASE_DIR.")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with small_file_system(tmp_path / "disk", "1m") as folder:
        yield folder


def test_a_base_directory_on_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    ended = up(tmp_path, base_dir=small_disk / "base")
    refused(ended, 2, str(small_disk / "base"), "lies on a full disk", "make room there", "INFERENCE_BASE_DIR")
    assert len(ended.stderr.strip().splitlines()) == 1


def test_a_base_directory_on_a_disk_that_is_read_only(small_disk: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    ended = up(tmp_path, base_dir=small_disk / "base")
    refused(ended, 2, str(small_disk / "base"), "cannot be used: Read-only file system", "INFERENCE_BASE_DIR")
    assert len(ended.stderr.strip().splitlines()) == 1


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        ended = up(tmp_path, port=port)
    refused(ended, 2, f"Cannot listen on 127.0.0.1:{port}", "in use", "INFERENCE_PORT")


def test_a_second_server_on_one_base_directory(tmp_path: Path) -> None:
    layout = Layout(base=tmp_path, models=tmp_path / "models")
    with hold(layout):
        ended = up(tmp_path)
    refused(ended, 2, f"Another server (process {os.getpid()})", str(tmp_path), "INFERENCE_BASE_DIR")


def test_a_server_of_the_projects_former_name_on_one_base_directory(tmp_path: Path) -> None:
    with (tmp_path / "switchyard.lock").open("w") as former:
        former.write("4711")
        former.flush()
        fcntl.flock(former, fcntl.LOCK_EX)
        ended = up(tmp_path)
    refused(ended, 2, "Another server (process 4711)", str(tmp_path), "INFERENCE_BASE_DIR")


def test_a_lock_of_the_projects_former_name_that_nobody_holds(tmp_path: Path) -> None:
    layout = Layout(base=tmp_path, models=tmp_path / "models")
    (tmp_path / "switchyard.lock").write_text("4711")
    with hold(layout):
        assert layout.lock_file.read_text() == str(os.getpid())
        assert not (tmp_path / "switchyard.lock").exists()


def test_a_config_file_of_the_projects_former_name_is_not_passed_over(tmp_path: Path) -> None:
    former = tmp_path / "config" / "switchyard.toml"
    former.parent.mkdir()
    former.write_text("port = 9")
    refused(up(tmp_path), 2, str(former), "now called Stepserve", "rename the file to stepserve.toml")


@pytest.mark.parametrize(
    ("flags", "settings", "said"),
    [
        (["--prot", "9"], {}, "--prot"),
        (["--port", "many"], {}, "valid integer"),
        ([], {"prot": 9}, "did you mean"),
        ([], {"port": 70000}, "INFERENCE_PORT"),
        (["--engine-arg", "model=/m"], {}, "INFERENCE_ENGINE__ARGS: model cannot be given"),
        (["--engine-arg", "tensor_parallel_size"], {}, "is not key=value"),
        ([], {"engine__args": "2"}, "INFERENCE_ENGINE__ARGS"),
        ([], {"drain_timeout_s": 0}, "INFERENCE_DRAIN_TIMEOUT_S"),
        ([], {"retention__runs_max_age_days": -1}, "INFERENCE_RETENTION__RUNS_MAX_AGE_DAYS"),
    ],
)
def test_a_flag_or_a_setting_that_means_nothing(
    flags: list[str], settings: dict[str, object], said: str, tmp_path: Path
) -> None:
    refused(up(tmp_path, *flags, **settings), 2, said)
    assert not (tmp_path / "db.sqlite").exists()


def test_an_engine_argument_that_vllm_does_not_have(tmp_path: Path) -> None:
    """It is vLLM's to say, so it is said once vLLM is imported; nothing is loaded."""
    ended = up(tmp_path, "--engine-arg", "tensor_paralel_size=2", engine__args='{"block_size": 64}')
    refused(ended, 2, "vLLM has no such engine argument (did you mean tensor_parallel_size?)")


def test_a_vllm_that_the_gateway_was_not_written_for(layout: Layout, tmp_path: Path) -> None:
    """Told by the package's description, before anything is imported."""
    package = tmp_path / "other" / "vllm-0.31.0.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.31.0\n")
    path = os.pathsep.join([str(package.parent), str(REPOSITORY)])
    ended = python(layout.base, "-m", "gateway", PYTHONPATH=path, port=free_port(), **NO_DEMO)
    refused(ended, EXIT_REFUSED, "gateway cannot start: vLLM 0.31.0 is installed", "runs with 0.32 and 0.33")


def test_a_database_of_a_newer_program(layout: Layout) -> None:
    with closing(sqlite3.connect(layout.database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    ended = python(layout.base, "-m", "control", **NO_DEMO)
    refused(ended, EXIT_REFUSED, "control cannot start: the database is at revision 9999", "restore a backup")
    assert len(ended.stderr.strip().splitlines()) == 1


def test_sockets_left_by_a_crash_are_in_nobodys_way(layout: Layout) -> None:
    with socket.socket(socket.AF_UNIX) as crashed:
        crashed.bind(str(layout.control_socket))
    process = psutil.Popen([sys.executable, "-m", "control"], cwd=layout.base, env=environment_of(layout.base, NO_DEMO))
    try:
        wait_until("control listens", lambda: _listens(layout.control_socket), 240)
        transport = httpx.HTTPTransport(uds=str(layout.control_socket))
        with httpx.Client(transport=transport, base_url="http://control", timeout=240) as control:
            assert control.get("/jobs/stats").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(240) == 0
    finally:
        if process.is_running():
            process.kill()


def _listens(address: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(address)) == 0


def test_a_server_of_the_e2e_tests_that_ends_is_not_waited_for(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match=r"it ended with 2: .* INFERENCE_MAX_CACH:"),
        Server(tmp_path, max_cach="2") as server,
    ):
        server.wait_ready()
