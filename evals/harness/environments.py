"""The virtual environments of the harnesses: each with the packages of a lock, made by a command and kept."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from stepserve.jobs.eval_ports import Harness

LOCKS = Path(__file__).parent / "locks"
_PACKAGES: Mapping[Harness, str] = {"lm_eval": "lm-eval", "inspect": "inspect-ai"}
WHOLE = "whole"  # a file that says so
_LIMIT_S = 1800.0


class NotMade(Exception):
    """An environment cannot be made; the message says why."""


class HarnessEnvironments:
    """In `<base>/harnesses`, a folder for each lock, so that a new version of ours makes a new one."""

    def __init__(self, folder: Path, locks: Path = LOCKS) -> None:
        self._folder = folder
        self._locks = locks

    def version(self, harness: Harness) -> str:
        """Of the harness, as its lock pins it."""
        name = f"{_PACKAGES[harness]}=="
        lines = self.lock(harness).read_text(encoding="utf-8").splitlines()
        return next(line.removeprefix(name).split()[0] for line in lines if line.startswith(name))

    def python(self, harness: Harness) -> Path | None:
        """Its interpreter; None where it is not installed."""
        folder = self.folder_of(harness)
        return folder / "bin" / "python" if (folder / WHOLE).exists() else None

    def why_not(self, harness: Harness) -> str | None:
        """What to do where it is not installed."""
        if self.python(harness) is not None:
            return None
        return (
            f"{harness} {self.version(harness)} is not installed here: run `stepserve eval install-harness {harness}`"
            " on the server's machine"
        )

    def make(self, harness: Harness) -> Path:
        """Installs it, unless it is there: downloads packages. Blocks for a minute or so. Raises NotMade."""
        if (python := self.python(harness)) is not None:
            return python
        folder = self.folder_of(harness)
        shutil.rmtree(folder, ignore_errors=True)
        python = folder / "bin" / "python"
        lock = str(self.lock(harness))
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-deps"]
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            _run([sys.executable, "-m", "venv", str(folder)])
            _run([*pip, "--require-hashes", "-r", lock])
            (folder / WHOLE).touch()
        except (OSError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stderr", None) or str(error)).strip()
            shutil.rmtree(folder, ignore_errors=True)
            raise NotMade(f"{harness} cannot be installed into {folder}: {said[-1000:]}") from error
        return python

    def lock(self, harness: Harness) -> Path:
        """What is installed, with the hashes of all packages."""
        return self._locks / f"{harness}.lock"

    def folder_of(self, harness: Harness) -> Path:
        """Another lock or another Python is another environment."""
        said = self.lock(harness).read_bytes() + sys.version.encode()
        return self._folder / f"{harness}-{hashlib.sha256(said).hexdigest()[:12]}"


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_LIMIT_S)
