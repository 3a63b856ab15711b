"""Prometheus and promtool for the tests: the machine's own, or Debian's package unpacked beside the tests."""

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
DEPLOY = REPOSITORY / "deploy"


def program(name: str) -> str:
    """`prometheus` or `promtool`; skips the test, saying why, where neither is to be had."""
    found = shutil.which(name)
    if found is None:
        folder = _unpacked()
        if folder is None:
            pytest.skip(f"{name} is not installed, and Debian's package prometheus cannot be had here")
        found = str(folder / "usr" / "bin" / name)
    return found


@functools.cache
def _unpacked() -> Path | None:
    """Debian's package, taken apart and not installed: nothing of it is started or left on the machine."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return None
    folder = Path(tempfile.mkdtemp(prefix="stepserve-prometheus-"))
    if not _download(folder) and os.geteuid() == 0:  # the lists of packages may be missing
        subprocess.run(["apt-get", "update"], check=False, capture_output=True, timeout=240)
        _download(folder)
    packages = list(folder.glob("prometheus_*.deb"))
    if not packages:
        shutil.rmtree(folder)
        return None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    subprocess.run(["dpkg-deb", "--extract", packages[0], folder], check=True, timeout=240)
    packages[0].unlink()
    return folder


def _download(folder: Path) -> bool:
    ended = subprocess.run(
        ["apt-get", "download", "prometheus"], cwd=folder, check=False, capture_output=True, timeout=240
    )
    return ended.returncode == 0
