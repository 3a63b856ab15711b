"""What a training box gets: the wheel and its base dependencies in a fresh environment, nothing of the server's."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
_IMPORTS = """
import sys
import stepserve.client.cli
from stepserve.client import AsyncClient, CheckpointHook, StepserveCallback, Client, push_checkpoint
heavy = {"torch", "vllm", "transformers", "fastapi", "sqlalchemy", "uvicorn", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""


def test_the_client_imports_nothing_heavy() -> None:
    subprocess.run([sys.executable, "-c", _IMPORTS], check=True)


def test_the_wheel_in_a_fresh_environment(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a build leaves its traces where it runs
    left_out = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "tests")
    shutil.copytree(REPOSITORY, source, ignore=left_out)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([str(uv), "venv", "-q", "--python", sys.executable, str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [str(uv), "pip", "install", "-q", "--python", str(python), str(wheel)]
    installed = subprocess.run(install, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"the base dependencies cannot be had here: {installed.stderr[-300:]}")
    subprocess.run([python, "-c", _IMPORTS], check=True, cwd=tmp_path)
    listed = subprocess.run([tmp_path / "venv" / "bin" / "stepserve", "--version"], capture_output=True, check=True)
    assert listed.stdout.strip()
    up = subprocess.run([tmp_path / "venv" / "bin" / "stepserve", "up"], capture_output=True, text=True, check=False)
    assert (up.returncode, up.stderr.count("\n")) == (2, 1)
    assert "pip install 'stepserve[cpu]'" in up.stderr
