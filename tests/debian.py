"""Programs that tests need and pip cannot bring: the machine's own, or Debian's, which root installs."""

import os
import shutil
import subprocess

import pytest

_LIMIT_S = 240.0


def program(name: str) -> str:
    """Its path; the package is called the same. Skips the test, saying why, where it cannot be had."""
    found = shutil.which(name)
    if found is not None:
        return found
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        pytest.skip(f"{name} is not installed, and only root on Debian can install it here: apt install {name}")
    install = ("apt-get", "install", "-y", "-q", "--no-install-recommends", name)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (install, ("apt-get", "update"), install):  # the lists of packages may be missing or old
        try:
            subprocess.run(command, check=False, capture_output=True, timeout=_LIMIT_S, env=environment)
        except subprocess.TimeoutExpired:
            break
        found = shutil.which(name)
        if found is not None:
            return found
    pytest.skip(f"{name} is not installed, and Debian's package cannot be had here")
