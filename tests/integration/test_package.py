"""What a training box gets: the client's wheel and its dependencies in a fresh environment, nothing of the server's."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepserve import Client, __version__
from tests.integration.public_server import PublicServer
from tests.integration.test_push import visit, write_large

REPOSITORY = Path(__file__).resolve().parents[2]
_IMPORTS = """
import sys
import stepserve
assert not any(name.startswith("stepserve.client") for name in sys.modules), "the shared package brings the client"
import stepserve.client.cli
from stepserve import AsyncClient, CheckpointHook, StepserveCallback, Client, push_checkpoint
heavy = {"torch", "vllm", "transformers", "fastapi", "sqlalchemy", "uvicorn", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""
# A trainer with packages of its own whose names are also some of the server's.
_TRAINING = """
import sys
from client import OURS
from evals import OURS
from ui import OURS
from stepserve import CheckpointHook, Client
url, checkpoint = sys.argv[1:]
hook = CheckpointHook("run", client=Client(url))
hook.saved(checkpoint, 7)
assert hook.close(60)
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each distribution's wheel, by the distribution's name."""
    folder = tmp_path_factory.mktemp("wheels")
    source = folder / "source"  # a build leaves its traces where it runs
    left_out = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(REPOSITORY, source, ignore=left_out)
    for project in (source, source / "server"):
        build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(project)]
        built = subprocess.run(build, capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stderr
    return {wheel.name.split("-")[0]: wheel for wheel in folder.glob("*.whl")}


@pytest.fixture(scope="module")
def training_box(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A fresh environment with the client's wheel."""
    environment = tmp_path_factory.mktemp("box") / "venv"
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([str(uv), "venv", "-q", "--python", sys.executable, str(environment)], check=True)
    install = [
        str(uv),
        "pip",
        "install",
        "-q",
        "--python",
        str(environment / "bin" / "python"),
        str(wheels["stepserve"]),
    ]
    installed = subprocess.run(install, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"the base dependencies cannot be had here: {installed.stderr[-300:]}")
    yield environment
    shutil.rmtree(environment)


def test_the_client_imports_nothing_heavy() -> None:
    subprocess.run([sys.executable, "-c", _IMPORTS], check=True)


def test_each_wheel_has_its_own_packages(wheels: dict[str, Path]) -> None:
    assert _packages(wheels["stepserve"]) == {"stepserve"}
    servers = {"control", "datagen", "demo", "evals", "gateway", "migrations", "ui"}
    assert _packages(wheels["stepserve_server"]) == servers
    with zipfile.ZipFile(wheels["stepserve"]) as wheel:
        assert "stepserve/py.typed" in wheel.namelist()
    with zipfile.ZipFile(wheels["stepserve_server"]) as wheel:
        held = set(wheel.namelist())
    kept = (path for package in servers for path in (REPOSITORY / package).rglob("*") if path.is_file())
    missing = {str(path.relative_to(REPOSITORY)) for path in kept if "__pycache__" not in path.parts} - held
    assert missing <= {"demo/README.md"}


def test_both_have_the_version_that_the_program_shows() -> None:
    client = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    server = tomllib.loads((REPOSITORY / "server" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert client["version"] == server["version"] == __version__
    assert f"stepserve=={__version__}" in server["dependencies"]


def test_no_page_installs_from_an_index_that_does_not_have_it() -> None:
    asked = re.compile(r"pip install +['\"]?stepserve\b(?!_|-\d|[\w-]*\.whl)")
    pages = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]
    assert [page.name for page in pages if asked.search(page.read_text(encoding="utf-8"))] == []


def test_a_fresh_environment(training_box: Path, tmp_path: Path) -> None:
    subprocess.run([training_box / "bin" / "python", "-c", _IMPORTS], check=True, cwd=tmp_path)
    command = training_box / "bin" / "stepserve"
    listed = subprocess.run([command, "--version"], capture_output=True, check=True)
    assert listed.stdout.strip()
    up = subprocess.run([command, "up"], capture_output=True, text=True, check=False)
    assert (up.returncode, up.stderr.count("\n")) == (2, 1)
    assert "the distribution stepserve-server" in up.stderr


def test_it_trains_beside_packages_named_as_the_servers(training_box: Path, tmp_path: Path) -> None:
    for name in ("client", "evals", "ui"):
        package = tmp_path / "project" / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("OURS = True\n")
    (tmp_path / "project" / "train.py").write_text(_TRAINING)

    def body(_: PublicServer, client: Client) -> None:
        checkpoint = write_large(tmp_path / "checkpoint", seed=1)
        command = [str(training_box / "bin" / "python"), "train.py", client.url, str(checkpoint)]
        ended = subprocess.run(command, cwd=tmp_path / "project", capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        assert [(model.id, model.step) for model in client.list_models()] == [("run-step-7", 7)]

    visit(tmp_path / "base", body)


def _packages(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name.split("/")[0] for name in archive.namelist() if ".dist-info/" not in name}
