"""Virtual environments of their own, for tools that pin other versions than vLLM does; made once, kept in .cache."""

import hashlib
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import get_args

import pytest

from evals.harness.environments import WHOLE, HarnessEnvironments
from stepserve.jobs.eval_ports import Harness
from tests.e2e.server import REPOSITORY

_INSTALL_LIMIT_S = 240.0
_HARNESSES = REPOSITORY / ".cache" / "harnesses"


def harness_python(harness: Harness) -> Path:
    """The interpreter of an environment as a server has it for this harness; skips the test where it cannot be made."""
    environments = HarnessEnvironments(_HARNESSES)
    if environments.python(harness) is None:
        _make(environments.folder_of(harness), ["--no-deps", "-r", str(environments.lock(harness))], harness)
    return environments.folder_of(harness) / "bin" / "python"


def installed_harnesses() -> Path:
    """The folder of a server's harnesses, all of them installed and compiled, as pip leaves them."""
    for python in map(harness_python, get_args(Harness)):
        run([str(python), "-m", "compileall", "-q", str(python.parent.parent / "lib")], _INSTALL_LIMIT_S)
    return _HARNESSES


def python_with(name: str, *, beside_ours: bool = False) -> Path:
    """The interpreter of an environment with requirements/<name>.txt; skips the test where it cannot be made.

    `beside_ours`: those alone, without what they ask for, and what is installed here is seen too.
    """
    requirements = REPOSITORY / "requirements" / f"{name}.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    folder = REPOSITORY / ".cache" / name / digest
    python = folder / "bin" / "python"
    if not (folder / WHOLE).exists():
        _make(folder, [*(["--no-deps"] if beside_ours else []), "-r", str(requirements)], name)
    if beside_ours:
        (packages,) = folder.glob("lib/python*/site-packages")
        (packages / "ours.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return python


def _make(folder: Path, what: list[str], name: str) -> None:
    uv = str(Path(sys.executable).with_name("uv"))
    try:
        run([uv, "venv", "-q", "--clear", "--python", sys.executable, str(folder)], _INSTALL_LIMIT_S)
        run([uv, "pip", "install", "-q", "--python", str(folder / "bin" / "python"), *what], _INSTALL_LIMIT_S)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        pytest.skip(f"{name} cannot be installed here: {said[-500:]}")
    (folder / WHOLE).touch()


def run(
    command: list[str], limit_s: float, environment: dict[str, str] | None = None, folder: Path | None = None
) -> str:
    """What it prints, started in `folder`. Raises CalledProcessError with the end of what it complained."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    try:
        ended = subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            timeout=limit_s,
            env=kept | (environment or {}),
            cwd=folder,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.CalledProcessError as error:
        error.add_note(error.stderr[-4000:])
        raise
    return ended.stdout
