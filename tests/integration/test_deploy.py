"""The files in deploy/, each checked by the tool that reads it: one that pip brought, the machine's or Debian's."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from stepserve import hosts
from tests import debian
from tests.e2e.server import free_port, kill
from tests.eventually import wait_until
from tests.threaded_server import threaded

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
OVERLAYS = ("cpu", "gpu", "replicas")


def path_of(tool: str) -> str:
    """Of a tool of the dev extra, or of one that only its maker's site has."""
    program = shutil.which(tool, path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if program is None:
        pytest.skip(f"{tool} is not installed")
    return program


def run(tool: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool if "/" in tool else path_of(tool), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=os.environ | environment,
    )


def test_systemd_understands_the_unit_and_the_drop_in(tmp_path: Path) -> None:
    unit = (DEPLOY / "systemd" / "stepserve.service").read_text()
    assert "/opt/stepserve/.venv/bin/stepserve" in unit
    file = tmp_path / "stepserve.service"
    file.write_text(unit.replace("/opt/stepserve/.venv/bin/stepserve", sys.executable))
    drop_in = tmp_path / "stepserve.service.d" / "power.conf"
    drop_in.parent.mkdir()
    drop_in.write_text((DEPLOY / "systemd" / "power.conf").read_text())
    ended = run(debian.program("systemd-analyze", "systemd"), "verify", "--man=no", file)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_sudo_understands_what_it_may_do(tmp_path: Path) -> None:
    file = tmp_path / "stepserve"
    file.write_text((DEPLOY / "systemd" / "stepserve.sudoers").read_text())
    file.chmod(0o440)
    ended = run(debian.program("visudo", "sudo"), "--check", "--strict", f"--file={file}")
    assert ended.returncode == 0, ended.stderr


def test_shellcheck_has_nothing_to_say() -> None:
    scripts = [*DEPLOY.glob("slurm/*.sh"), *DEPLOY.glob("slurm/*.sbatch")]
    ended = run("shellcheck", *scripts)
    assert len(scripts) == 6
    assert (ended.returncode, ended.stdout) == (0, "")


def test_hadolint_has_nothing_to_say() -> None:
    ended = run("hadolint", DEPLOY / "docker" / "Dockerfile")
    assert (ended.returncode, ended.stdout) == (0, "")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kubernetes_takes_every_overlay(overlay: str, tmp_path: Path) -> None:
    built = run("kubectl", "kustomize", DEPLOY / "kubernetes" / "overlays" / overlay)
    assert built.returncode == 0, built.stderr
    objects = {one["kind"]: one for one in yaml.safe_load_all(built.stdout)}
    pod = objects["Deployment"]["spec"]["template"]
    selector = objects["Service"]["spec"]["selector"]
    assert selector.items() <= pod["metadata"]["labels"].items()
    assert objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == selector
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    for container in pod["spec"]["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    settings = objects["ConfigMap"]["data"]
    assert pod["spec"]["terminationGracePeriodSeconds"] > 5 + int(settings["INFERENCE_DRAIN_TIMEOUT_S"])
    assert_settings(settings, tmp_path)
    (tmp_path / "objects.yaml").write_text(built.stdout)
    valid = run("kubernetes-validate", "--strict", "-k", "1.34", tmp_path / "objects.yaml")
    assert valid.returncode == 0, valid.stdout + valid.stderr


def test_compose_names_files_and_settings_that_there_are(tmp_path: Path) -> None:
    folder = DEPLOY / "docker"
    whole = yaml.safe_load((folder / "compose.yml").read_text())
    for service in whole["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (folder / source).exists() if source.startswith(".") else source in whole["volumes"]
    server = whole["services"]["server"]
    environment = {name: re.sub(r"\$\{\w+:\?[^}]*\}", "x" * 32, value) for name, value in server["environment"].items()}
    image = re.findall(r"^ +(?:ENV )?(INFERENCE_\w+)=(\S+)", (folder / "Dockerfile").read_text(), re.MULTILINE)
    assert_settings(dict(image) | environment, tmp_path)
    assert set(yaml.safe_load((folder / "compose.cuda.yml").read_text())["services"]) == {"server", "ui"}


def test_the_web_ui_of_compose_answers_its_health_check(tmp_path: Path) -> None:
    service = yaml.safe_load((DEPLOY / "docker" / "compose.yml").read_text())["services"]["ui"]
    port = free_port()
    assert service["entrypoint"][:3] == ["tini", "--", "python"]
    arguments = [*service["entrypoint"][3:], *service["command"]]
    here = {"0.0.0.0": "127.0.0.1", "8501": str(port), "http://server:8765": "http://127.0.0.1:9"}
    command = [sys.executable, *(here.get(argument, argument) for argument in arguments)]
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": str(DEPLOY.parent)}
    healthy = [sys.executable, *service["healthcheck"]["test"][2:-1]]
    healthy.append(service["healthcheck"]["test"][-1].replace("8501", str(port)))
    ui = psutil.Popen(command, cwd=tmp_path, env=environment)
    try:
        wait_until(
            "it is healthy", lambda: subprocess.run(healthy, capture_output=True, check=False).returncode == 0, 60
        )
        ui.send_signal(signal.SIGTERM)
        assert ui.wait(240) == 0
    finally:
        if ui.is_running():
            ui.kill()
            ui.wait()


@pytest.mark.parametrize("name", ["compose.yml", "compose.cuda.yml"])
def test_the_compose_files_keep_to_the_specification(name: str) -> None:
    ended = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "docker" / name)
    assert ended.returncode == 0, ended.stdout


def test_docker_compose_understands_its_files() -> None:
    if run("docker", "compose", "version").returncode != 0:
        pytest.skip("docker compose is not installed")
    files = [f"--file={DEPLOY / 'docker' / name}" for name in ("compose.yml", "compose.cuda.yml")]
    ended = run("docker", "compose", *files, "config", "--quiet", STEPSERVE_ADMIN_KEY="x" * 32, POSTGRES_PASSWORD="x")
    assert ended.returncode == 0, ended.stderr


def test_kuberay_gets_pods_that_hold_a_server_and_its_replicas(tmp_path: Path) -> None:
    """KubeRay's own definition of a RayCluster is not at hand, so its pods are checked as pods."""
    cluster, claim = yaml.safe_load_all((DEPLOY / "ray" / "raycluster.yaml").read_text())
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    head, (workers,) = cluster["spec"]["headGroupSpec"], cluster["spec"]["workerGroupSpecs"]
    containers = [pod["template"]["spec"]["containers"][0] for pod in (head, workers)]
    for group, container in zip((head, workers), containers, strict=True):
        assert "KUBERAY_GEN_RAY_START_CMD" in container["args"][0]
        volumes = {volume["name"] for volume in group["template"]["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    settings = {each["name"]: each["value"] for each in containers[0]["env"]}
    assert head["rayStartParams"]["num-gpus"] == "0", "the card of the server's own gateway"
    assert settings["INFERENCE_REPLICAS__COUNT"] == str(workers["replicas"])
    assert settings["INFERENCE_REPLICAS__GPUS_EACH"] == str(containers[1]["resources"]["limits"]["nvidia.com/gpu"])
    assert head["template"]["spec"]["terminationGracePeriodSeconds"] > 5 + int(settings["INFERENCE_DRAIN_TIMEOUT_S"])
    assert_settings(settings | {"INFERENCE_BASE_DIR": str(tmp_path)}, tmp_path)
    script = tmp_path / "head.sh"
    script.write_text("#!/usr/bin/env bash\n" + containers[0]["args"][0])
    assert run("bash", "-n", script).returncode == 0
    pods = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": group["template"]["spec"]}
        for name, group in (("head", head), ("worker", workers))
    ]
    (tmp_path / "objects.yaml").write_text(yaml.safe_dump_all([*pods, claim]))
    valid = run("kubernetes-validate", "--strict", "-k", "1.34", tmp_path / "objects.yaml")
    assert valid.returncode == 0, valid.stdout + valid.stderr


def assert_settings(environment: dict[str, str], folder: Path) -> None:
    bare = {name: value for name, value in os.environ.items() if not name.startswith("INFERENCE_")}
    checked = subprocess.run(
        [sys.executable, "-c", "from stepserve.client.cli import main; main()", "config", "check"],
        cwd=folder,
        env=bare | {"PYTHONPATH": str(DEPLOY.parent)} | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


class _Streaming(BaseHTTPRequestHandler):
    """Answers with the path that it was asked for, and with more only once the client says so."""

    more = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"{self.path} of {self.server.server_port}\n".encode())  # type: ignore[attr-defined]
        self.wfile.flush()
        assert self.more.wait(240)
        self.wfile.write(b"end\n")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def streaming() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Streaming)
    with threaded(server):
        yield server.server_port


def test_nginx_streams_and_tells_the_tiers_apart(tmp_path: Path) -> None:
    port = free_port()
    with streaming() as fast, streaming() as reasoning:
        ours = (DEPLOY / "nginx" / "stepserve.conf").read_text()
        for there, here in (
            ("listen 80;", f"listen 127.0.0.1:{port};"),
            (":8765;", f":{fast};"),
            (":8766;", f":{reasoning};"),
        ):
            assert there in ours
            ours = ours.replace(there, here)
        (tmp_path / "stepserve.conf").write_text(ours)
        places = "".join(
            f"{kind}_temp_path {tmp_path / kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        whole = (
            f"daemon off; pid {tmp_path}/pid; error_log stderr; events {{}}"
            f" http {{ access_log off; {places} include {tmp_path}/stepserve.conf; }}"
        )
        (tmp_path / "nginx.conf").write_text(whole)
        program = debian.program("nginx", "nginx-light")
        tested = run(program, "-t", "-e", "stderr", "-c", tmp_path / "nginx.conf")
        assert tested.returncode == 0, tested.stderr
        nginx = psutil.Popen([program, "-e", "stderr", "-c", tmp_path / "nginx.conf"], stderr=subprocess.DEVNULL)
        try:
            wait_until("nginx listens", lambda: _listens(port), 240)
            for asked, got in (
                ("/v1/models", f"/v1/models of {fast}\n"),
                ("/reasoning/v1/models", f"/v1/models of {reasoning}\n"),
            ):
                _Streaming.more.clear()
                with httpx.stream("GET", f"http://127.0.0.1:{port}{asked}", timeout=240, trust_env=False) as answer:
                    pieces = answer.iter_text()
                    assert next(pieces) == got  # before the server has sent the rest
                    _Streaming.more.set()
                    assert "".join(pieces) == "end\n"
        finally:
            _Streaming.more.set()
            nginx.send_signal(signal.SIGTERM)
            nginx.wait(240)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


_PROGRAM = """#!/usr/bin/env bash
trap 'echo asked to end; exit 0' TERM
echo "$@" > "$INFERENCE_BASE_DIR.arguments"
echo "$INFERENCE_PORT" > "$INFERENCE_BASE_DIR.port"
sleep infinity & wait
"""


_NOTING = """#!/usr/bin/env bash
trap 'kill $!; exit 0' TERM
note=$STEPSERVE_HOME/$(basename "$0")
{ echo "$@"; env | grep ^INFERENCE_; } > "$note.tmp" && mv "$note.tmp" "$note"
sleep infinity & wait
"""


@contextmanager
def member_of_an_array(folder: Path, task: int) -> Iterator[psutil.Popen]:
    """member.sbatch as slurmd runs it; the server and `scontrol` are scripts that note what they are asked for."""
    for name, text in ((".venv/bin/stepserve", _PROGRAM), ("bin/scontrol", f'echo "$@" > {folder}/scontrol\n')):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    if not (folder / "deploy").exists():
        (folder / "deploy").symlink_to(DEPLOY)
    process = psutil.Popen(
        ["bash", DEPLOY / "slurm" / "member.sbatch"],
        env=os.environ
        | {
            "PATH": f"{folder}/bin:{os.environ['PATH']}", "STEPSERVE_HOME": str(folder), "STEPSERVE_TIER": "reasoning",
            "STEPSERVE_CONTROL": "http://head:8765", "INFERENCE_FLEET__API_KEY": "sy_key",
            "STEPSERVE_BASE_DIR": str(folder), "SLURM_JOB_ID": "45", "SLURM_ARRAY_JOB_ID": "41",
            "SLURM_ARRAY_TASK_ID": str(task),
        },
    )  # fmt: skip
    try:
        wait_until("it has joined", (folder / f"reasoning-{task}.port").exists, 240.0)
        yield process
    finally:
        if process.is_running():
            kill([*process.children(recursive=True), process])
            process.wait()


@pytest.mark.parametrize(("sent", "requeues"), [(signal.SIGTERM, False), (signal.SIGUSR1, True)])
def test_a_member_of_a_slurm_array_keeps_its_name(tmp_path: Path, sent: signal.Signals, requeues: bool) -> None:
    with member_of_an_array(tmp_path, 3) as job:
        arguments = (tmp_path / "reasoning-3.arguments").read_text().split()
        assert arguments[:2] == ["join", "http://head:8765"]
        given = list(zip(arguments[2::2], arguments[3::2], strict=True))
        port = int((tmp_path / "reasoning-3.port").read_text())
        assert ("--id", "reasoning-3") in given
        assert [value for name, value in given if name == "--label"] == ["tier=reasoning", "slurm_job=45"]
        assert dict(given)["--advertise"].endswith(f":{port}")
        assert port == 20044, "of the array and the task, so that a requeued one has it again"
        job.send_signal(sent)
        assert job.wait(240) == 0
    assert (tmp_path / "scontrol").exists() == requeues
    if requeues:
        assert (tmp_path / "scontrol").read_text() == "requeue 41_3\n"


def test_a_slurm_job_over_several_nodes_has_them_join_its_server(tmp_path: Path) -> None:
    for name in (".venv/bin/stepserve", "bin/srun"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(_NOTING)
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    (tmp_path / "deploy").symlink_to(DEPLOY)
    job = psutil.Popen(
        ["bash", DEPLOY / "slurm" / "reasoning.sbatch"],
        env=os.environ
        | {
            "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "STEPSERVE_HOME": str(tmp_path),
            "STEPSERVE_HOSTS": str(tmp_path / "hosts.json"), "STEPSERVE_BASE_DIR": str(tmp_path),
            "INFERENCE_ACCESS__ADMIN_KEY": "k" * 32, "INFERENCE_NODES__ADDRESS": "127.0.0.1",
            "SLURM_JOB_ID": "45", "SLURM_JOB_NUM_NODES": "2", "SLURMD_NODENAME": "first",
        },
    )  # fmt: skip
    try:
        started = (tmp_path / "stepserve", tmp_path / "srun")
        wait_until("the server and the other nodes are started", lambda: all(file.exists() for file in started))
        asked, *given = (tmp_path / "srun").read_text().splitlines()
        _, *settings = (tmp_path / "stepserve").read_text().splitlines()
        family = job.children(recursive=True)
        job.send_signal(signal.SIGTERM)
        assert job.wait(240) == 0
        assert psutil.wait_procs(family, timeout=240)[1] == []
    finally:
        kill([*job.children(recursive=True), job] if job.is_running() else [])
    environment = dict(line.split("=", 1) for line in settings)
    port = environment["INFERENCE_NODES__PORT"]
    assert "--nodes=1" in asked.split()
    assert "--exclude=first" in asked.split()
    assert asked.endswith(f"stepserve node --join 127.0.0.1:{port}")
    assert f"INFERENCE_NODES__KEY={environment['INFERENCE_NODES__KEY']}" in given, "both have the same key"
    assert json.loads(environment["INFERENCE_ENGINE__ARGS"])["nnodes"] == 2
    assert_settings(environment, tmp_path)


def register(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, DEPLOY / "slurm" / "register.py", *map(str, arguments)])


def test_slurm_jobs_register_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight nodes at once, into a file that has something else already; the server's own reader understands it."""
    file = tmp_path / "hosts.json"
    file.write_text(json.dumps({"trainer": {"host": "192.0.2.3"}}))
    monkeypatch.setenv("STEPSERVE_FAST_KEY", "k" * 32)
    urls = [f"http://node{number}:20001/v1" for number in range(8)]
    for process in [register("add", file, "fast", url, "STEPSERVE_FAST_KEY") for url in urls]:
        assert process.wait(240) == 0
    known = hosts.read(file, tmp_path)
    assert sorted(upstream.base_url for upstream in known.tiers["fast"].upstreams) == urls
    assert known.trainer.host == "192.0.2.3"
    for process in [register("remove", file, "fast", url) for url in urls]:
        assert process.wait(240) == 0
    assert hosts.read(file, tmp_path).tiers == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hosts.json", "hosts.json.lock"]
