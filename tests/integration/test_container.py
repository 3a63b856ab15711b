"""The image, built and started by the commands of docs/deploy.md: by podman, on a base made of Debian's packages.

No registry has to be reached. `pytest -m long tests/integration/test_container.py` takes minutes, most for the build.
"""

import json
import os
import re
import resource
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.debian import program
from tests.e2e.server import free_port
from tests.eventually import wait_until

pytestmark = pytest.mark.long

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = REPOSITORY / "docs" / "deploy.md"
CHECKPOINT = REPOSITORY / "demo" / "checkpoints" / "step-1500"
BASE = "localhost/stepserve-test-base"
IMAGE = "localhost/stepserve:cpu"
_PACKAGES = "ca-certificates,python3.11,python3.11-venv"
_KEY = "0123456789abcdef" * 3
_BUILD_S, _START_S = 1800.0, 600.0


class Podman:
    """`adjusted`: what `podman run` needs on a machine whose limits or control groups crun does not take."""

    def __init__(self) -> None:
        self.adjusted: Sequence[str] = ()

    def __call__(self, *arguments: str, timeout_s: float = 240.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["podman", *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def done(self, *arguments: str, timeout_s: float = 240.0) -> str:
        ended = self(*arguments, timeout_s=timeout_s)
        assert ended.returncode == 0, ended.stderr[-4000:]
        return ended.stdout.strip()

    def run(self, name: str, *arguments: str) -> str:
        return self.done("run", "--detach", "--name", name, *self.adjusted, *arguments)


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Podman:
    """With the base image; skips where no container can be started."""
    program("podman")
    program("runc")
    program("iptables")
    bootstrap = program("mmdebstrap")
    asked = Podman()
    if asked("image", "exists", BASE).returncode != 0:
        archive = tmp_path_factory.mktemp("base") / "base.tar"
        command = [bootstrap, "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(archive)]
        made = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        if made.returncode != 0:
            pytest.skip(f"mmdebstrap cannot make a base here: {made.stderr.strip()[-300:]}")
        asked.done("import", "--quiet", str(archive), BASE, timeout_s=600)
    said = ""
    for flags in ((), ("--runtime", "runc", *_limits())):
        asked.adjusted = flags
        tried = asked("run", "--rm", *flags, BASE, "true")
        if tried.returncode == 0:
            return asked
        said = tried.stderr.strip()[-300:]
    pytest.skip(f"podman starts no container here: {said}")


def _limits() -> Iterator[str]:
    """This process's own: a container may not raise them where we may not."""
    for name, limit in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
        soft, hard = resource.getrlimit(limit)
        yield from ("--ulimit", f"{name}={min(soft, 30_000)}:{min(hard, 30_000)}")


@pytest.fixture(scope="module")
def image(podman: Podman) -> str:
    """Built by the page's own line."""
    line = next(line for line in _commands("docker build") if "DEVICE" not in line)
    flags, tag = shlex.split(line)[2:-1], "stepserve:cpu"
    assert flags[flags.index("-t") + 1] == tag
    flags[flags.index("-t") + 1] = IMAGE
    build = ("build", "--format", "docker", "--isolation", "chroot", "--network", "host")
    podman.done(*build, "--build-arg", f"BASE={BASE}", *_package_sources(), *flags, ".", timeout_s=_BUILD_S)
    return IMAGE


def _commands(beginning: str) -> list[str]:
    text = PAGE.read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line.startswith(beginning)]


def _package_sources() -> Iterator[str]:
    """Pip's configuration of this machine, and the files that it names, for the build alone."""
    listed = subprocess.run(["pip", "config", "list"], capture_output=True, text=True, timeout=240, check=False)
    values = dict(re.findall(r"^(?:global|install|:env:)\.([\w-]+)='(.*)'$", listed.stdout, re.MULTILINE))
    files: set[str] = set()
    for name, value in values.items():
        text = value.replace("\\n", " ")
        yield from ("--env", f"PIP_{name.upper().replace('-', '_')}={text}")
        named = [Path(path) for path in re.findall(r"(?:file://)?(/[^\s']+)", text)]
        # An index of files leads to others beside it.
        named = [path.parent if path.name == "simple" else path for path in named]
        files |= {str(path) for path in named if path.exists()}
    for variable in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if variable in os.environ:
            yield from ("--env", f"{variable}={os.environ[variable]}")
            files.add(os.environ[variable])
    for path in sorted(files):
        yield from ("--volume", f"{path}:{path}:ro")


@pytest.fixture
def name(podman: Podman) -> Iterator[str]:
    """Of a container, which goes with the test, and of its volume."""
    name = "stepserve-test"
    podman("rm", "--force", "--volumes", name)
    podman("volume", "rm", "--force", name)
    yield name
    podman("rm", "--force", "--volumes", name)
    podman("volume", "rm", "--force", name)


def _documented(image: str, name: str, port: int, number: int) -> list[str]:
    """The arguments of the page's `docker run` with that number, for this test's volume, port and key."""
    line = _commands("docker run")[number]
    line = line.replace('"$(openssl rand -hex 24)"', _KEY).replace("127.0.0.1:8765:", f"127.0.0.1:{port}:")
    line = line.replace("-v stepserve:/data", f"-v {name}:/data").replace("$PWD/my-model", str(CHECKPOINT))
    arguments = shlex.split(line)[2:]
    assert arguments[-1] == "stepserve:cpu"
    return [each.replace("stepserve:cpu", image) for each in arguments]


@contextmanager
def _ready(podman: Podman, name: str, url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=240, trust_env=False, headers={"authorization": f"Bearer {_KEY}"}) as http:

        def answers() -> bool:
            running = podman.done("inspect", "--format", "{{.State.Running}}", name)
            assert running == "true", podman("logs", name).stderr[-4000:]
            try:
                return http.get("/readyz").status_code == 200
            except httpx.TransportError:
                return False

        wait_until("the server is ready", answers, _START_S)
        yield http


def _answer(http: httpx.Client) -> tuple[str, str]:
    body = {"model": "active", "messages": [{"role": "user", "content": "What is 17+25?"}], "temperature": 0}
    answered = http.post("/v1/chat/completions", json=body).raise_for_status().json()
    return answered["model"], answered["choices"][0]["message"]["content"]


def test_a_server_as_the_page_starts_it(podman: Podman, image: str, name: str) -> None:
    port = free_port()
    podman.run(name, *_documented(image, name, port, 0))
    with _ready(podman, name, f"http://127.0.0.1:{port}") as http:
        assert _answer(http) == ("demo-step-1500", "42")
        assert httpx.get(f"{http.base_url}/models", trust_env=False).status_code == 401
        assert podman.done("exec", name, "id", "-u") == "10001"
        assert podman("healthcheck", "run", name).returncode == 0
        logs = podman("logs", name)
        assert all(json.loads(line) for line in logs.stderr.splitlines() if line.startswith("{"))
    podman.done("stop", "--time", "45", name)
    assert podman.done("inspect", "--format", "{{.State.ExitCode}}", name) == "0"


def test_a_model_that_is_mounted_on_a_root_that_cannot_be_written(podman: Podman, image: str, name: str) -> None:
    port = free_port()
    arguments = _documented(image, name, port, 1)
    assert "--read-only" in arguments
    podman.run(name, *arguments)
    with _ready(podman, name, f"http://127.0.0.1:{port}") as http:
        model, answer = _answer(http)
        assert (model, answer) == ("my-model", "42")


def test_without_a_key_it_says_why_nobody_reaches_it(podman: Podman, image: str, name: str) -> None:
    podman.run(name, "-v", f"{name}:/data", "--shm-size", "4g", image)
    wait_until("the log says why", lambda: "loopback" in podman("logs", name).stderr, _START_S)
    said = next(line for line in podman("logs", name).stderr.splitlines() if "loopback" in line)
    assert "INFERENCE_ACCESS__ADMIN_KEY" in said
